"""One budget of part buffers for all uploads of a process, lent by need and in turn.

An upload holds at most one buffer that is being filled, and never waits for a second one while it
holds the first: whatever the others do, it can fill that one, ship it and give it back. So no set
of uploads can block one another, however small the budget. Those that wait are served in the order
in which they came, which makes concurrent pushes advance at the same pace.
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
        self._scheduled = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

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
        return not self._queue and self.pool.lent + _size(capacity, part_size) <= self.pool.budget

    def borrow(self, capacity: int, part_size: int, *, in_turn: bool = False) -> PartBuffer | None:
        """A buffer for `capacity` bytes, or None: then wait for one's turn with `queue`."""
        if self._queue and not in_turn:
            return None
        return self.pool.lend(_size(capacity, part_size), capacity, self.window)

    def grow(self, part: PartBuffer, *, in_turn: bool = False) -> bool:
        """Give a shrunk buffer its memory again; False: then wait for one's turn with `queue`."""
        return (in_turn or not self._queue) and part.grow()

    def queue(self, borrower: Borrower) -> None:
        """Wait for one's turn; `try_borrow` is called then."""
        self._queue.append(borrower)
        self._freed()

    def leave(self, borrower: Borrower) -> None:
        """Wait no longer; that one does not wait is no error."""
        if borrower in self._queue:
            self._queue.remove(borrower)
            self._freed()

    def _freed(self) -> None:
        # Called while a buffer is being released: lending has to wait until that is done.
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._scheduled = False
        while self._queue and self._queue[0].try_borrow():
            self._queue.popleft()


def _size(capacity: int, part_size: int) -> int:
    """Bytes to map for `capacity`: few different sizes, so that kept memory fits the next one."""
    if capacity * 2 > part_size:
        return part_size
    return max(SMALLEST, 1 << (capacity - 1).bit_length())
