"""The push: from the socket through part buffers into the store, verified before it exists."""
