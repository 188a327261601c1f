"""A package of somebody else: its store and its embedder become known by an entry point each."""
