"""Memory that was freed goes back to the system.

The C library keeps it for itself in two cases: it takes ever larger allocations from its heap once
such have been freed, where a small one above them then holds all of it; and what lies free between
others it never gives back on its own. And a connection that has ended is garbage in a cycle (uvloop
makes one for TLS), which waits for a collection that an idle server never makes.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes

_MAPPED: Final = 256 * 1024
"""Bytes from which on an allocation is a mapping of its own, which goes when it is freed: bodies,
and the buffer of a TLS connection."""

_M_MMAP_THRESHOLD: Final = -3
"""mallopt(3)."""

_FEWER: Final = 20
_SECONDS: Final = 5.0
"""How many connections must have gone since memory was last given back, and how long ago."""


class Allocator:
    """What a process does about it. Built once all that stays has been loaded."""

    def __init__(self) -> None:
        self._libc = _glibc()
        if self._libc is not None:
            self._libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        gc.freeze()  # what is there now stays: no collection has to look at it
        self._most = 0
        self._since = 0.0
        self._some_were_left = False

    def tick(self, connections: int, now: float) -> None:
        """Give back what many connections have left behind, once half of them are gone, and once
        more when all are; called about once a second."""
        self._most = max(self._most, connections)
        half_are_gone = connections <= self._most // 2 and self._most - connections >= _FEWER
        last_are_gone = self._some_were_left and not connections
        if not (half_are_gone or last_are_gone) or now - self._since < _SECONDS:
            return
        self._most, self._since, self._some_were_left = connections, now, connections > 0
        gc.collect()
        if self._libc is not None:
            self._libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    import ctypes

    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
