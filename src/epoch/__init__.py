"""Epoch: an OCI registry whose pushes go from the socket straight into object storage."""

__version__ = "0.1.0"
