"""Large corpora: files of texts, read some rows at a time, and written again with their vectors."""
