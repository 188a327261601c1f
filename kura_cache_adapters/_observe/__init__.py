"""One seam for what happens: counters and the log that does not repeat itself."""
