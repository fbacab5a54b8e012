"""The part that one upload fills, and how much memory its client has earned for it.

A small buffer has as much memory as has come, so that a client that hardly sends holds hardly
anything. A whole one has all its memory from the start, which is what a fast client needs: the
kernel receives into it without a question for every piece.
"""

from __future__ import annotations

from typing import Final, Protocol

from epoch._fastio import PartBuffer, fill
from epoch.errors import RegistryError
from epoch.upload.budget import (
    LOOK_SECONDS,
    WAIT_SECONDS,
    WAIT_SECONDS_MIDWAY,
    Budget,
    whole_size,
)

PROOF: Final = 64 * 1024
PROOF_SECONDS: Final = 1.0
"""A client that sends so many bytes in so many seconds is lent whole buffers."""

WHILE_OTHERS_WAIT: Final = 4
"""So many times as much is wanted while others wait for memory."""

PROOF_IN_TURN: Final = 0.25
"""Seconds of waiting from which on it is looked again, when it is its turn, whether the client has
sent as much meanwhile, as far as it could: its turn takes memory from others."""

COPIED: Final = 4 * 1024 * 1024
"""Bytes up to which what is filled is copied into a whole buffer: that one was in use before, and
is in huge pages, where a small one that grows to 16 MiB costs 4,096 page faults."""

FEW: Final = 4
"""Small buffers are few while they have less than this part of what they may have."""

STEP: Final = 16 * 1024
"""Bytes by which small buffers grow, beyond `PROOF`."""


class Owner(Protocol):
    """The sink that fills the part."""

    total: int
    """Bytes that have come."""

    @property
    def held_up(self) -> bool:
        """Whether we keep its client waiting: then it cannot show how fast it is."""

    def try_borrow(self) -> bool:
        """See `Borrower`."""

    def make_small(self) -> None:
        """See `Holder`; `Loan.demote` does it."""

    def refuse(self, error: RegistryError) -> None:
        """There is no memory for it, or not any more."""


class Loan:
    """What one upload holds of the budget: a `Holder`, and a `Borrower` while it waits."""

    def __init__(
        self, budget: Budget, owner: Owner, part_size: int, first: PartBuffer | None
    ) -> None:
        """`first`: a begun part to go on with, ours from now on."""
        self.part = first
        self.whole = first is not None
        """Whether its client is lent whole buffers."""
        self.rate = -1.0
        self.need = 0
        self.waits = False
        self.in_turn = False
        self._budget = budget
        self._owner = owner
        self.part_size = part_size
        self._small = 0  # bytes that are counted as small
        self._waited = 0.0  # since when
        # Since when, and from which byte on, its client is being looked at, and proves itself.
        self._looked = self._proving = (budget.now(), 0)
        self._count()

    # Holder

    @property
    def filled(self) -> int:
        """See `Holder`."""
        return self.part.filled if self.part is not None else 0

    @property
    def mapped(self) -> int:
        """See `Holder`."""
        return self.part.mapped if self.part is not None else 0

    @property
    def wanted(self) -> int:
        """See `Holder`."""
        return self.need if self.waits and not self.in_turn else 0

    @property
    def is_huge(self) -> bool:
        """See `Holder`."""
        return self._budget.is_huge(self.part_size)

    @property
    def held_up(self) -> bool:
        """See `Holder`."""
        return self._owner.held_up

    def look(self, now: float) -> None:
        """See `Holder`."""
        since, total = self._looked
        if self.waits:
            return
        if self._owner.held_up:
            self._looked = (now, self._owner.total)  # it cannot send now
        elif now - since >= LOOK_SECONDS * 0.8:
            self.rate = (self._owner.total - total) / (now - since)
            self._looked = (now, self._owner.total)

    def make_small(self) -> None:
        """See `Holder`."""
        self._owner.make_small()

    # Borrower

    @property
    def patience(self) -> float:
        """See `Borrower`."""
        midway = self._owner.total >= self.part_size
        return WAIT_SECONDS_MIDWAY if midway else WAIT_SECONDS

    def try_borrow(self) -> bool:
        """See `Borrower`."""
        return self._owner.try_borrow()

    def refuse(self, error: RegistryError) -> None:
        """See `Borrower` and `Holder`."""
        self._owner.refuse(error)

    def wait_for_small(self, count: int) -> None:
        """Wait until `extend` by so many bytes works."""
        self._wait(max(0, self._small_size(self.filled + count) - self.mapped), for_small=True)

    def wait_for_whole(self, capacity: int) -> None:
        """Wait until `borrow` for so many bytes, or `promote` where there is a part, works."""
        capacity = self.part.capacity if self.part is not None else capacity
        self._wait(whole_size(capacity, self.part_size) - self.mapped, for_small=False)

    def stop_waiting(self) -> None:
        """Wait no longer. The time in which its client could not send does not count."""
        if not self.waits:
            return
        self.waits = self.in_turn = False
        self._budget.leave(self)
        waited = self._budget.now() - self._waited
        self._looked = (self._looked[0] + waited, self._looked[1])
        self._proving = (self._proving[0] + waited, self._proving[1])

    def _wait(self, need: int, *, for_small: bool) -> None:
        self.need = need
        self.waits = True
        self.in_turn = not for_small
        self._waited = self._budget.now()
        self._budget.queue(self, for_small=for_small)

    # The owner's side

    def borrow(self, capacity: int, *, in_turn: bool = False) -> bool:
        """Have a whole buffer for the next part."""
        self.part = self._budget.borrow(capacity, self.part_size, in_turn=in_turn)
        if self.part is not None:
            self.whole = True
            self._renewed()
        return self.part is not None

    def extend(self, count: int, capacity: int) -> bool:
        """Have memory for `count` bytes more in a small buffer; `capacity`: of a new one."""
        part, budget = self.part, self._budget
        if self.filled + count <= self.mapped:
            return True
        whole = whole_size(part.capacity if part is not None else capacity, self.part_size)
        size = min(self._small_size(self.filled + count), whole)
        if not budget.has_room_for_small(self, size - self.mapped):
            return False
        if part is not None:
            had_room = part.grow(size)
        else:
            self.part = budget.pool.lend(whole, capacity, budget.window, size)
            had_room = self.part is not None
        self._count()
        return had_room

    def most(self, wanted: int, least: int) -> int:
        """How many bytes may be received for a small buffer: as many as it has memory for, else
        `wanted` if there will be memory for them, else `least`."""
        part = self.part
        if part is None:
            return wanted if self._budget.has_room_for_small(self, wanted) else least
        unused = part.mapped - part.filled
        if not unused:
            unused = wanted if self._budget.has_room_for_small(self, wanted) else least
        return min(part.room, unused)

    def has_earned(self) -> bool:
        """Whether a small buffer's client, of which bytes have just come, is a fast one."""
        since, total = self._proving
        proof = PROOF * WHILE_OTHERS_WAIT if self._budget.waiting else PROOF
        if self._owner.total - total < proof:
            return False
        now = self._budget.now()
        self._proving = (now, self._owner.total)
        return now - since <= PROOF_SECONDS

    def wants_small(self, held: int) -> bool:
        """Whether to wait for a small buffer, or for more of it, rather than for a whole one.
        `held`: bytes that have come, and are in no buffer yet."""
        if self.whole or self.is_huge:
            return False
        more = self._small_size(self.filled + held) - self.mapped
        is_new = self.part is None
        return is_new or self._budget.small_may_have(self, more) or self.is_slow(held)

    def is_slow(self, held: int) -> bool:
        """Whether a small buffer's client is known to be too slow for a whole one."""
        since, total = self._proving
        span = self._budget.now() - since
        if self.part is None or self.whole or self.is_huge or span < PROOF_IN_TURN:
            return False
        rate = (self._owner.total + held - total) / span
        if self.rate < 0:
            self.rate = rate
        return rate < PROOF / PROOF_SECONDS

    def is_still_fast(self, unread: int, left: int | None) -> bool:
        """Whether a client that has waited for a whole buffer is worth it. `unread`: bytes that it
        has sent meanwhile; `left`: of its body."""
        waited = self._budget.now() - self._waited
        if waited < PROOF_IN_TURN:
            return True
        self.rate = unread / waited
        wanted = PROOF * min(waited, PROOF_SECONDS) / PROOF_SECONDS
        return unread >= (wanted if left is None else min(wanted, left))

    def promote(self) -> bool:
        """Have a whole buffer in place of a small one, in turn."""
        part = self.part
        assert part is not None
        whole = None
        size = whole_size(part.capacity, self.part_size)
        if not self._budget.has_room_for_whole(size - part.mapped):
            return False
        if part.filled <= COPIED:
            whole = self._budget.pool.lend(size, part.capacity, part.capacity)
        if whole is not None:
            with memoryview(part) as data:
                whole.advance(fill(whole, data))
            part.release()
            self.part = whole
        elif not part.grow():
            return False
        self.whole = True
        self._renewed()
        return True

    def demote(self) -> None:
        """Keep what is filled, and no more."""
        self.whole = False
        self._proving = (self._budget.now(), self._owner.total)
        part = self.part
        if part is not None and not part.filled:
            self.part = None
            part.release()
        elif part is not None:
            part.shrink()
        self._count()

    def close(self) -> PartBuffer | None:
        """The end of the upload: the part that is left, the caller's from now on."""
        self.stop_waiting()
        return self.hand_over()

    def hand_over(self) -> PartBuffer | None:
        """The part, the caller's from now on."""
        part, self.part = self.part, None
        self._count()
        return part

    def _small_size(self, filled: int) -> int:
        """Bytes of memory for a small buffer: few different sizes, as they are kept for the next.
        While there are few of them, as much as most need in the end, so that none has to grow."""
        if filled > PROOF:
            return -(-filled // STEP) * STEP
        if self._budget.small < self._budget.small_limit // FEW:
            return PROOF
        return max(4096, 1 << (filled - 1).bit_length())

    def _renewed(self) -> None:
        """Nothing is known yet of how fast this buffer is filled."""
        self.rate = -1.0
        self._waited = self._budget.now()
        self._looked = (self._waited, self._owner.total)
        self._count()

    def _count(self) -> None:
        """Note what is held."""
        small = 0 if self.whole else self.mapped
        self._budget.small += small - self._small
        self._small = small
        if self.part is None:
            self._budget.holders.discard(self)
        else:
            self._budget.holders.add(self)
