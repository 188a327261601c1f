"""The segment engine: look-up, write and merge over immutable sorted files."""
