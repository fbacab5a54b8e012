"""Servers to push to."""

from tests.tools.fixtures import place, running, server, start_server

__all__ = ["place", "running", "server", "start_server"]
