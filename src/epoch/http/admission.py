"""How many connections may be open: as many as descriptors allow, less a reserve for the store, its
files and the log. Beyond that, those make room that wait for nothing."""

from __future__ import annotations

import resource
from typing import Final, Protocol

from epoch import log

RESERVE: Final = 32
"""Descriptors that connections never take; a tenth of all where that is more."""

BUSY: Final = 3
"""Further descriptors that a running request may need: of a file or of connections to the store,
and duplicates of them and of its own (`relay`, `sendfile`)."""

IDLE_SECONDS: Final = 1.0
"""For how long a connection is not taken for idle: its request may be on its way."""

_LOG_SECONDS: Final = 60.0


class Guest(Protocol):
    """A connection, as far as it may have to make room."""

    def abort(self) -> None:
        """Close at once."""


class Admission:
    """The connections of one listener that wait for a request, in the order of their waiting."""

    def __init__(self, limit: int | None = None) -> None:
        """`limit`: the most connections, counting `BUSY` more for each that runs a request. By
        default what RLIMIT_NOFILE leaves."""
        self.limit: Final = _limit() if limit is None else limit
        self._fresh: dict[Guest, float] = {}  # no request of theirs has been served; since when
        self._kept: dict[Guest, float] = {}
        self._refused = 0
        self._logged = float("-inf")

    def waits(self, guest: Guest, now: float, *, served: bool) -> None:
        """It waits for its first request or for its next one, or has been answered for the last
        time and only lingers."""
        self.works(guest)
        (self._kept if served else self._fresh)[guest] = now

    def works(self, guest: Guest) -> None:
        """It does not wait any more: its request has come, or it is gone."""
        self._fresh.pop(guest, None)
        self._kept.pop(guest, None)

    def make_room(self, connections: int, requests: int, now: float) -> bool:
        """Whether there is room for what has just come, maybe since others had to go."""
        over = connections + BUSY * requests - self.limit
        while over > 0 and (guest := self._idle_longest(now)) is not None:
            self.works(guest)
            guest.abort()
            over -= 1
        return over <= 0

    def refused(self, now: float) -> None:
        """Count one that was refused, and say so in the log, once a minute."""
        self._refused += 1
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            log.warn(
                "connections are refused: raise the limit of open files (ulimit -n)",
                refused=self._refused,
                most=self.limit,
            )
            self._refused = 0

    def _idle_longest(self, now: float) -> Guest | None:
        """Who has been served is spared as long as there are others."""
        for waiting in (self._fresh, self._kept):
            for guest, since in waiting.items():
                if now - since >= IDLE_SECONDS:
                    return guest
                break  # all others came later
        return None


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 31
    return max(soft // 4, soft - max(RESERVE, soft // 10))
