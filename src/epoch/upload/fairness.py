"""Who has to give memory back while others wait for it. Looked at twice a second.

The slowest always go first. A whole buffer whose client is slow keeps what is filled and becomes a
small one. Small buffers have a share of the budget; where they have more than that, or where
nothing else has helped for `STILL_SECONDS`, clients are cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from epoch.errors import Code, RegistryError
from epoch.http.message import BodyCut

SLOW: Final = 128 * 1024
"""Bytes per second below which a whole buffer is given back while others wait; more than what a
client must show to be lent one, so that this does not count twice. It doubles with every second for
which the queue stands still, up to what fills the buffer in `FILL_SECONDS`."""

FILL_SECONDS: Final = 10.0

STILL_SECONDS: Final = 10.0
"""How long the queue may stand still, with no part under way, before clients are cut off, one at a
time."""

NO_ROOM_SECONDS: Final = 2.0
"""The same, where it is below `SLOW` and the share of the small buffers has no room for what it
holds."""

CUT_AT_ONCE: Final = 256
"""How many are cut off in one look: a look is one step of the loop."""

HEADROOM: Final = 8
"""Where small buffers want more than their share, they are cut back by an eighth of it more, so
that who comes next finds room at once."""

RETRY_AFTER: Final = (("Retry-After", "30"),)


class Holder(Protocol):
    """Who holds a buffer that is being filled."""

    rate: float
    """Bytes per second that have come lately; below 0: not known yet."""
    whole: bool
    """Whether it has a whole buffer."""

    @property
    def filled(self) -> int:
        """Bytes that it must keep."""

    @property
    def mapped(self) -> int:
        """Bytes that it has of the budget."""

    @property
    def wanted(self) -> int:
        """Bytes of a small buffer that it waits for beyond that."""

    @property
    def is_huge(self) -> bool:
        """Whether its part is so large that it cannot keep any of it while others wait."""

    @property
    def in_turn(self) -> bool:
        """Whether it waits for a whole buffer: it goes on by itself when it is its turn."""

    @property
    def held_up(self) -> bool:
        """Whether its client waits for us otherwise."""

    def look(self, now: float) -> None:
        """See how fast its client is."""

    def make_small(self) -> None:
        """Give back what is not filled; where that is not possible now, do nothing."""

    def refuse(self, error: RegistryError) -> None:
        """Cut its client off."""


class Shortage(NamedTuple):
    """What is missing, in bytes; where it is not above 0, nothing is."""

    first: int
    """For the first that waits."""
    all: int
    """For all that wait."""
    small: int
    """That small buffers have."""
    small_wanted: int
    """That they want beyond it."""
    small_limit: int
    """That they may have."""
    still: float
    """Seconds for which the first has waited, and nobody was lent a whole buffer."""
    under_way: bool
    """Whether memory is held that comes back by itself."""


def press(slowest: Sequence[Holder], shortage: Shortage) -> None:
    """Make room for those who wait. `slowest`: who may be asked for it, in this order."""
    cut = _cut_small([holder for holder in slowest if not holder.whole], shortage)
    freed = cut + _make_small([holder for holder in slowest if holder.whole], shortage, cut)
    lack = shortage.first - freed
    if lack > 0 and slowest and shortage.still >= STILL_SECONDS and not shortage.under_way:
        slowest[0].refuse(too_slow())


def _cut_small(slowest: list[Holder], shortage: Shortage) -> int:
    """Where small buffers have more than their share, cut off the slowest; returns the bytes that
    will come back."""
    excess = shortage.small + shortage.small_wanted - shortage.small_limit
    if excess <= 0:
        return 0
    if shortage.small_wanted:
        excess += shortage.small_limit // HEADROOM
    else:
        excess = min(excess, shortage.all)
    freed = spared = 0
    for holder in slowest[:CUT_AT_ONCE]:
        if freed + spared >= excess:
            break
        freed += holder.mapped
        spared += holder.wanted  # which nobody wants any more
        holder.refuse(too_slow())
    return freed


def _make_small(slowest: list[Holder], shortage: Shortage, freed: int) -> int:
    """Make whole buffers small whose clients are slow; returns the bytes that came back."""
    demanded = SLOW * 2 ** min(shortage.still, 60.0)
    small, before = shortage.small, freed
    for holder in slowest:
        size, kept = holder.mapped, holder.filled
        # Who is not plainly slow goes only as far as the first one needs it.
        wanted = shortage.all if holder.rate < SLOW else shortage.first
        if holder.rate >= min(demanded, size / FILL_SECONDS) or freed >= wanted:
            continue
        if small + kept <= shortage.small_limit and not holder.is_huge:
            holder.make_small()
            freed += size - holder.mapped
            small += holder.mapped
        elif holder.rate < SLOW and shortage.still >= NO_ROOM_SECONDS:
            freed += size
            holder.refuse(too_slow())
    return freed - before


def too_slow() -> RegistryError:
    """What a client is told that is cut off."""
    return BodyCut(
        Code.UNAVAILABLE,
        "the body comes too slowly while others wait for memory",
        status=408,
        headers=RETRY_AFTER,
    )
