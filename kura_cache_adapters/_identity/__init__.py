"""When two requests are the same: what makes an embedder's vectors, and what is a secret in it."""
