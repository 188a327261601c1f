"""Mirrors of directories of segments in object stores: by names alone, so that nobody coordinates."""
