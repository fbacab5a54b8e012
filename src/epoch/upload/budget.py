"""One budget of part buffers for all uploads of a process, lent by need and in turn.

An upload holds at most one buffer that is being filled (`Loan`), a small one or a whole one, and
never waits for another whole one while it holds the first: whatever the others do, it can fill that
one, ship it and give it back. Those that wait are served in the order in which they came, which
makes concurrent pushes advance at the same pace.

Small buffers have a share of the budget, beside which a whole one always fits. While somebody
waits, the holders are looked at twice a second (`press`), and who waits for too long is refused.
ARCHITECTURE.md says why no set of uploads can block the others.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final, Protocol

from epoch._fastio import PartBuffer, Pool
from epoch.config import MAX_PARTS, UploadSettings
from epoch.errors import Code, RegistryError
from epoch.http.message import BodyCut
from epoch.upload.fairness import RETRY_AFTER, Holder, Shortage, press

SMALLEST: Final = 64 * 1024
"""Bytes of the smallest whole buffer: a body of a few bytes does not take a whole part's."""

LOOK_SECONDS: Final = 0.5
"""How often the holders are looked at while somebody waits."""

AT_ONCE: Final = 64
"""How many that wait are served, or refused, in one step of the loop."""

WAIT_SECONDS: Final = 60.0
WAIT_SECONDS_MIDWAY: Final = 300.0
"""How long an upload waits for memory before it is refused: one that has little to lose, and one
that has filled a part before. The second is above the time for which the store may be away."""


class Borrower(Protocol):
    """Who waits for memory."""

    @property
    def need(self) -> int:
        """Bytes that it waits for."""

    @property
    def mapped(self) -> int:
        """Bytes that it holds meanwhile."""

    @property
    def part_size(self) -> int:
        """The most that it will hold."""

    @property
    def patience(self) -> float:
        """Seconds that it waits at most."""

    def try_borrow(self) -> bool:
        """There may be room now: borrow, and say whether that worked out or is moot."""

    def refuse(self, error: RegistryError) -> None:
        """Give up: there is no memory for it."""


Queue = dict[Borrower, float]
"""Those who wait, the first in front, each with the time when it came."""


class Budget:
    """The pool, and the queues before it."""

    def __init__(self, settings: UploadSettings) -> None:
        self.window = settings.receive_window
        self.pool = Pool(settings.budget, self._freed)
        self.holders: set[Holder] = set()
        """Who holds a buffer that is being filled."""
        self.small = 0
        """Bytes of small buffers."""
        self.for_small: Queue = {}
        self.for_whole: Queue = {}
        self._part_size = settings.part_size
        self._loop = asyncio.get_running_loop()
        # Kept free for small buffers, where that is little: else each of them would make the pool
        # unmap a whole one that is kept for the next.
        self._for_small = self._part_size if self._part_size * 8 <= settings.budget else 0
        self._moved = 0.0  # when the queue for whole buffers last did
        self._scheduled = False
        self._looking = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self.for_whole) + len(self.for_small)

    @property
    def small_limit(self) -> int:
        """Bytes that small buffers may have now. Beside them there is always room for a whole one
        of half of the budget; who has larger parts has no small ones (`is_huge`)."""
        budget = self.pool.budget
        return budget // 4 if self.for_whole else budget // 2

    def is_huge(self, part_size: int) -> bool:
        """Whether a whole buffer may not have room beside small ones."""
        return part_size * 2 > self.pool.budget

    def part_size(self, length: int | None) -> int:
        """The part size for a body: the configured one, doubled until 10,000 parts suffice.

        Fixed for the upload: some stores refuse parts that grow (Cloudflare R2).
        """
        size = self._part_size
        while length is not None and size * MAX_PARTS < length:
            size *= 2
        return size

    def largest_blob(self) -> int:
        """The most bytes that fit in 10,000 parts whose buffers fit in the budget."""
        size = self._part_size
        while size * 2 <= self.pool.budget:
            size *= 2
        return size * MAX_PARTS

    def has_room(self, capacity: int, part_size: int) -> bool:
        """Whether `borrow` would succeed now."""
        return not self.waiting and self.has_room_for_whole(whole_size(capacity, part_size))

    def borrow(self, capacity: int, part_size: int, *, in_turn: bool = False) -> PartBuffer | None:
        """A whole buffer for `capacity` bytes, or None: then wait for one's turn with `queue`."""
        if self.waiting and not in_turn:
            return None
        size = whole_size(capacity, part_size)
        if size <= self.pool.budget and not self.has_room_for_whole(size):
            return None
        return self.pool.lend(size, capacity, self.window)

    def has_plenty(self, capacity: int, part_size: int) -> bool:
        """Whether half of the budget is free and nobody waits: then nobody has to earn anything."""
        size = whole_size(capacity, part_size)
        return not self.waiting and self.pool.lent + size <= self.pool.budget // 2

    def has_room_for_whole(self, size: int) -> bool:
        """Whether so many bytes may be lent to a whole buffer."""
        budget = self.pool.budget
        for_small = max(0, self._for_small - self.small) if size * 2 <= budget else 0
        return self.pool.lent + size + for_small <= budget

    def now(self) -> float:
        """The loop's time."""
        return self._loop.time()

    def has_room_for_small(self, borrower: Borrower, count: int) -> bool:
        """Whether a small buffer may be lent, or given more, now."""
        is_free = self.pool.lent + count <= self.pool.budget
        return is_free and self.small_may_have(borrower, count)

    def small_may_have(self, borrower: Borrower, count: int) -> bool:
        """Whether it is within what small buffers may have."""
        if self.is_huge(borrower.part_size):
            return False
        limit = self.small_limit
        if self.for_whole and not borrower.mapped:
            # Who comes anew does not take what the first in the queue is waiting for.
            limit = min(limit, self.pool.budget - next(iter(self.for_whole)).need)
        return self.small + count <= limit

    async def acquire(self, capacity: int, part_size: int) -> PartBuffer:
        """Like `borrow`, but waits for its turn, and raises `RegistryError` where that takes too
        long. The caller must not hold a buffer."""
        part = self.borrow(capacity, part_size)
        if part is not None:
            return part
        waiter = _Waiter(self, capacity, part_size)
        self.queue(waiter)
        try:
            return await waiter.lent
        except BaseException:
            waiter.withdraw()
            raise

    def queue(self, borrower: Borrower, *, for_small: bool = False) -> None:
        """Wait for one's turn; `try_borrow` is called then, or `refuse` when it takes too long."""
        now = self._loop.time()
        (self.for_small if for_small else self.for_whole)[borrower] = now
        self._freed()
        if not self._looking:
            self._looking = True
            self._loop.call_later(LOOK_SECONDS, self._look)

    def leave(self, borrower: Borrower) -> None:
        """Wait no longer; that one does not wait is no error."""
        for queue in (self.for_small, self.for_whole):
            if queue.pop(borrower, None) is not None:
                self._freed()

    def _freed(self) -> None:
        # Called while a buffer is being released: lending has to wait until that is done.
        if self.waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._scheduled = False
        # Those with small buffers first: they want little, and their share is bounded.
        self._serve_some(self.for_small)
        if self._serve_some(self.for_whole):
            self._moved = self._loop.time()
        if self.for_whole and self.pool.lent == self.small:
            # Nothing that comes back by itself is out: what the first one lacks is held by those
            # that wait after it.
            holding = (borrower for borrower in self.for_whole if borrower.mapped)
            for borrower in list(islice(holding, AT_ONCE)):
                _lend(self.for_whole, borrower)

    def _serve_some(self, queue: Queue) -> bool:
        """Serve those in front; returns whether there were any."""
        served = 0
        for borrower in list(islice(queue, AT_ONCE)):
            if not _lend(queue, borrower):
                break
            served += 1
        if served == AT_ONCE:
            self._freed()
        return served > 0

    def _look(self) -> None:
        """Twice a second, while somebody waits."""
        self._looking = self.waiting > 0
        if not self._looking:
            return
        now = self._loop.time()
        self._refuse_late()
        if self.waiting:
            press(self._slowest(now), self._shortage(now))
        self._freed()
        self._loop.call_later(LOOK_SECONDS, self._look)

    def _refuse_late(self) -> None:
        """Refuse those that have waited for too long."""
        now = self._loop.time()
        for queue in (self.for_small, self.for_whole):
            late = (each for each, since in queue.items() if now - since > each.patience)
            for number, borrower in enumerate(list(islice(late, AT_ONCE)), 1):
                queue.pop(borrower, None)
                borrower.refuse(_refusal(borrower.patience))
                if number == AT_ONCE:
                    self._loop.call_soon(self._refuse_late)

    def _slowest(self, now: float) -> list[Holder]:
        """The holders that may have to give something back, the slowest first."""
        found = []
        for holder in self.holders:
            holder.look(now)
            if holder.rate >= 0 and not holder.in_turn and not holder.held_up:
                found.append(holder)
        found.sort(key=lambda holder: holder.rate)
        return found

    def _shortage(self, now: float) -> Shortage:
        free = self.pool.budget - self.pool.lent
        for_small = sum(borrower.need for borrower in self.for_small)
        for_whole = sum(borrower.need for borrower in self.for_whole)
        queue = self.for_whole or self.for_small
        first = next(iter(queue))
        held = sum(holder.mapped for holder in self.holders)
        return Shortage(
            first=first.need - free,
            all=for_small + for_whole - free,
            small=self.small,
            small_wanted=for_small,
            small_limit=min(self.small_limit, self.pool.budget - first.need),
            still=now - max(self._moved, queue[first]),
            under_way=self.pool.lent > held,
        )


class _Waiter:
    """A `Borrower` that a coroutine waits for."""

    mapped = 0
    patience = WAIT_SECONDS

    def __init__(self, budget: Budget, capacity: int, part_size: int) -> None:
        self.lent: asyncio.Future[PartBuffer] = asyncio.get_running_loop().create_future()
        self.need = whole_size(capacity, part_size)
        self.part_size = part_size
        self._budget = budget
        self._capacity = capacity

    def try_borrow(self) -> bool:
        """See `Borrower`."""
        if self.lent.done():
            return True
        try:
            part = self._budget.borrow(self._capacity, self.part_size, in_turn=True)
        except Exception as error:  # noqa: BLE001 - the coroutine's to see
            self.lent.set_exception(error)
            return True
        if part is not None:
            self.lent.set_result(part)
        return part is not None

    def refuse(self, error: RegistryError) -> None:
        """See `Borrower`."""
        if not self.lent.done():
            self.lent.set_exception(error)

    def withdraw(self) -> None:
        """The coroutine was cancelled, maybe after it was lent something."""
        self._budget.leave(self)
        if self.lent.done() and not self.lent.cancelled() and self.lent.exception() is None:
            self.lent.result().release()


def whole_size(capacity: int, part_size: int) -> int:
    """Bytes to map for `capacity`: few different sizes, so that kept memory fits the next one."""
    if capacity * 2 > part_size:
        return part_size
    return max(SMALLEST, 1 << (capacity - 1).bit_length())


def _lend(queue: Queue, borrower: Borrower) -> bool:
    came = queue.get(borrower)
    if came is None or not borrower.try_borrow():
        return False
    if queue.get(borrower) is came:  # else it waits for something else by now
        del queue[borrower]
    return True


def _refusal(seconds: float) -> RegistryError:
    # As a cut: what has come of an upload in several requests is kept.
    return BodyCut(
        Code.UNAVAILABLE,
        f"no memory for this upload within {seconds:g} seconds: too many at once",
        status=503,
        headers=RETRY_AFTER,
    )
