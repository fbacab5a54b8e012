"""Garbage collection: what no manifest names and no upload needs any more, found and removed."""
