"""The store over a local directory."""
