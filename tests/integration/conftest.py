"""Servers to push to."""

from tests.tools.fixtures import place, running, server, start_server
from tests.tools.kinds import every_key_has_a_kind

__all__ = ["every_key_has_a_kind", "place", "running", "server", "start_server"]
