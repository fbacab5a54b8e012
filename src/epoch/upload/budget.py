"""One budget of part buffers for all uploads of a process, lent by need and in turn.

An upload holds at most one buffer that is being filled, and never waits for a second one while it
holds the first: whatever the others do, it can fill that one, ship it and give it back. Those that
wait are served in the order in which they came, which makes concurrent pushes advance at the same
pace.

A silent upload may be made to give back the memory behind what it has filled, and takes it again
when its client goes on: before anybody borrows, and not in turn. Whoever was lent memory last can
always have it back, since its own was free when it came. So no set of uploads can block one
another, however small the budget.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from epoch._fastio import PartBuffer, Pool
from epoch.config import MAX_PARTS, UploadSettings

SMALLEST: Final = 64 * 1024
"""Bytes of the smallest buffer: a body of a few bytes does not take a whole part's."""


class Borrower(Protocol):
    """Who waits for a buffer."""

    def try_borrow(self) -> bool:
        """There may be room now: borrow, and say whether that worked out or is moot."""


class Budget:
    """The pool, and the queue before it."""

    def __init__(self, settings: UploadSettings) -> None:
        self.window = settings.receive_window
        self.pool = Pool(settings.budget, self._freed)
        self._part_size = settings.part_size
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Borrower] = deque()
        self._growers: list[Borrower] = []
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue) + len(self._growers)

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
        return not self.waiting and self.pool.lent + _size(capacity, part_size) <= self.pool.budget

    def borrow(self, capacity: int, part_size: int, *, in_turn: bool = False) -> PartBuffer | None:
        """A buffer for `capacity` bytes, or None: then wait for one's turn with `queue`."""
        if self.waiting and not in_turn:
            return None
        return self.pool.lend(_size(capacity, part_size), capacity, self.window)

    def grow(self, part: PartBuffer) -> bool:
        """Give a shrunk buffer its memory again; False: then wait for it with `queue`."""
        return part.grow()

    async def acquire(self, capacity: int, part_size: int) -> PartBuffer:
        """Like `borrow`, but wait for one's turn. To be called by who holds no buffer."""
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

    def queue(self, borrower: Borrower, *, to_grow: bool = False) -> None:
        """Wait for one's turn; `try_borrow` is called then.

        `to_grow`: it wants back what it gave; it goes before those that hold nothing.
        """
        (self._growers if to_grow else self._queue).append(borrower)
        self._freed()

    def leave(self, borrower: Borrower) -> None:
        """Wait no longer; that one does not wait is no error."""
        for waiting in (self._queue, self._growers):
            if borrower in waiting:
                waiting.remove(borrower)
                self._freed()

    def _freed(self) -> None:
        # Called while a buffer is being released: lending has to wait until that is done.
        if self.waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._scheduled = False
        for grower in list(self._growers):
            if grower.try_borrow():
                self._growers.remove(grower)
        while not self._growers and self._queue and self._queue[0].try_borrow():
            self._queue.popleft()


class _Waiter:
    """A `Borrower` that a coroutine waits for."""

    def __init__(self, budget: Budget, capacity: int, part_size: int) -> None:
        self.lent: asyncio.Future[PartBuffer] = asyncio.get_running_loop().create_future()
        self._budget = budget
        self._capacity = capacity
        self._part_size = part_size

    def try_borrow(self) -> bool:
        """See `Borrower`."""
        if self.lent.done():
            return True
        try:
            part = self._budget.borrow(self._capacity, self._part_size, in_turn=True)
        except Exception as error:  # noqa: BLE001 - the coroutine's to see
            self.lent.set_exception(error)
            return True
        if part is not None:
            self.lent.set_result(part)
        return part is not None

    def withdraw(self) -> None:
        """The coroutine was cancelled, maybe after it was lent something."""
        self._budget.leave(self)
        if self.lent.done() and not self.lent.cancelled() and self.lent.exception() is None:
            self.lent.result().release()


def _size(capacity: int, part_size: int) -> int:
    """Bytes to map for `capacity`: few different sizes, so that kept memory fits the next one."""
    if capacity * 2 > part_size:
        return part_size
    return max(SMALLEST, 1 << (capacity - 1).bit_length())
