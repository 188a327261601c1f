"""What stands between a caller and a remote store: deadlines, a circuit breaker, a backlog of writes."""
