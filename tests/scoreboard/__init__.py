"""Which embedding caches are right: a case per way to be wrong, run against every cache."""
