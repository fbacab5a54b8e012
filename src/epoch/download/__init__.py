"""Blobs on their way out: ranges, conditions, redirects, streaming."""
