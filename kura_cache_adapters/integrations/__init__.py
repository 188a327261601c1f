"""Engines that run over many batches, workers and machines, one file each; they use faces only."""
