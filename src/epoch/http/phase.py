"""The phases of a connection, and what may follow what.

HEAD ------> HANDLING      a head is complete
HANDLING --> HEAD          the answer is out, and the connection is kept
HEAD ------> DRAINING      what came is no request: it is refused
HANDLING --> DRAINING      the last answer is out
any -------> CLOSED        the transport closes, or has closed
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Phase(Enum):
    """What a connection is doing. The value says so in words."""

    HEAD = "reading a request head, or waiting for one"
    HANDLING = "answering a request"
    DRAINING = "dropping what the client still sends after the last answer"
    CLOSED = "closing, or closed: what comes is no request"


FOLLOWS: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.HEAD: frozenset({Phase.HANDLING, Phase.DRAINING, Phase.CLOSED}),
    Phase.HANDLING: frozenset({Phase.HEAD, Phase.DRAINING, Phase.CLOSED}),
    Phase.DRAINING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}


class IllegalPhase(AssertionError):
    """A phase that cannot follow the one before it: a mistake of ours."""


def follow(before: Phase, after: Phase) -> Phase:
    """Returns `after`; `IllegalPhase` where it may not follow `before`."""
    if after not in FOLLOWS[before]:
        raise IllegalPhase(f"{before.name} is not followed by {after.name}")
    return after
