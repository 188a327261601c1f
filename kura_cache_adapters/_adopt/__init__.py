"""Vectors that people have paid for already: in other caches, and in files."""
