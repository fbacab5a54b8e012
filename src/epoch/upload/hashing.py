"""When, and where, the bytes that came are hashed.

A digest is a chain: one message cannot be hashed faster than 64 rounds a block allow. Three ways
around that, chosen for what is going on:

* few pushes, one core: at once, where the bytes lie, while they are in the cache;
* few pushes, and cores to spare: in another thread, while the event loop receives and sends on;
* many pushes, and a CPU with wide registers: side by side. Each receives a pile and rests; when
  all that had bytes ready have one, those are hashed together, and each goes on when its own is.

What waits to be hashed holds a view of its part: the memory stays, whoever releases it meanwhile.
However much waits, the loop hashes a slice of it in one step and then looks at everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol

from epoch._fastio import HashQueue, PartBuffer, Sha256, hash_together, lanes_worthwhile

if TYPE_CHECKING:
    from typing_extensions import Buffer

ROUND_BYTES: Final = 4 * 1024 * 1024
"""Bytes that one push collects for a round, or less at the end of a part. They are out of the cache
when they are hashed, which costs less than many short receives, each with a pause."""

ROUND_WAIT_TURNS: Final = 2
"""Turns of the loop that a round waits for more pushes to have their pile."""

ROUND_COOLDOWN: Final = 64
"""Receives that are hashed one by one after a round in which too few pushes took part."""

LANES: Final = 16
SLICE: Final = 512 * 1024
"""The most pushes, and the most bytes of each, that are hashed in one step of the loop: 8 MiB in 3
milliseconds side by side. Twice as much would save nothing that can be measured."""

THREAD_JOB_BYTES: Final = 8 * 1024 * 1024
"""Bytes from which on another thread is woken. It costs as much as hashing some 100 KiB."""

MAX_BACKLOG: Final = 16 * 1024 * 1024
"""Bytes of one push that may wait for another thread."""


class Hasher(Protocol):
    """`hashlib`'s interface, as far as it is used here."""

    def update(self, data: Buffer, /) -> None:
        """Hash on."""

    def hexdigest(self) -> str:
        """The digest so far."""


class Hashing:
    """One for all pushes of a process."""

    def __init__(self, *, threads: int = 0, lanes: int | None = None) -> None:
        """`threads`: cores to spare. `lanes`: how many pushes make rounds worthwhile, 0: none do;
        by default, what the CPU says."""
        self.executor = ThreadPoolExecutor(threads, "hash") if threads else None
        self._lanes = lanes_worthwhile() if lanes is None else lanes
        self._loop = asyncio.get_running_loop()
        self._running = 0
        self._coming: list[Digesting] = []  # for the next round
        self._round: list[Digesting] = []  # being hashed, those in front first
        self._scheduled = False
        self._turns = 0  # that the next round has waited
        self._alone = 0  # receives until a round is tried again

    @property
    def in_rounds(self) -> bool:
        """Whether enough pushes run to hash side by side."""
        return 0 < self._lanes <= self._running and not self._alone

    def join(self) -> None:
        """A push begins."""
        self._running += 1

    def leave(self) -> None:
        """A push has received all that it will."""
        self._running -= 1

    def took_alone(self) -> None:
        """Something came outside of rounds."""
        if self._alone:
            self._alone -= 1

    def rest(self, push: Digesting) -> None:
        """Hash what `push` has waiting in the next round."""
        self._coming.append(push)
        self._go_on()

    def forget(self, push: Digesting) -> None:
        """Take a push out of its round."""
        for pushes in (self._coming, self._round):
            if push in pushes:
                pushes.remove(push)

    def close(self) -> None:
        """End the threads; none has anything left to do."""
        if self.executor is not None:
            self.executor.shutdown()

    def _go_on(self) -> None:
        if not self._scheduled and (self._round or self._coming):
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._round or self._begin():
            self._hash_slice()
        self._go_on()

    def _begin(self) -> bool:
        """Begin the next round, unless it is worth waiting for more pushes."""
        self._turns += 1
        count = len(self._coming)
        if 0 < count < self._running and self._turns <= ROUND_WAIT_TURNS:
            return False
        self._turns = 0
        self._round, self._coming = self._coming, []
        if 0 < 3 * count < 2 * self._lanes:
            self._alone = ROUND_COOLDOWN
        return bool(count)

    def _hash_slice(self) -> None:
        pushes = self._round[:LANES]
        for push in pushes:
            push.queue.take(SLICE)
        hash_together([push.queue for push in pushes])
        self._round = [push for push in self._round if push.queue.waiting]
        for push in pushes:
            if push.queue.waiting:
                push.queue.release()
            else:
                push.hashed()


class Digesting:
    """The digest of one body."""

    def __init__(
        self,
        hashing: Hashing,
        digest: Sha256,
        on_hashed: Callable[[], None],
        part_size: int = 0,
    ) -> None:
        """`on_hashed()`: something of what waited was hashed. `part_size`: see `HashQueue`."""
        self.queue = HashQueue(digest, part_size)
        self._hashing = hashing
        self._on_hashed = on_hashed
        self._loop = asyncio.get_running_loop()
        self._resting = False
        self._due = False
        self._job: asyncio.Future[None] | None = None  # another thread hashes
        self._settled: asyncio.Future[None] | None = None

    @property
    def must_wait(self) -> bool:
        """Whether no more bytes are to be received now; `on_hashed` will tell."""
        return self._resting or self.queue.waiting + self.queue.held > MAX_BACKLOG

    @property
    def behind(self) -> bool:
        """Whether anything that was taken is not hashed yet."""
        return self._resting or self._job is not None or self.queue.waiting > 0

    def take_now(self, part: PartBuffer, count: int) -> None:
        """The same as `take`, hashed when it returns; not while it is `behind`."""
        part.advance_hashed(count, self.queue.digest)
        if not part.room:
            self.queue.note()

    def take(self, part: PartBuffer, count: int) -> None:
        """Add `count` bytes at the tail of `part` to what is filled, and to the digest."""
        hashing = self._hashing
        if self._resting:
            self.queue.add(part, count)
            return
        if self._job is None and hashing.in_rounds:
            self.queue.add(part, count)
            if self.queue.waiting >= ROUND_BYTES or not part.room:
                self._resting = True
                hashing.rest(self)
            return
        hashing.took_alone()
        if hashing.executor is None and not self.queue.waiting:
            part.advance_hashed(count, self.queue.digest)
            if not part.room:
                self.queue.note()
            return
        self.queue.add(part, count)
        # Nobody but us would free a part that others may be waiting for.
        self._due = self._due or not part.room or hashing.executor is None
        self._go_on()

    def flush(self) -> None:
        """Hash soon what waits, however little it is."""
        self._due = True
        self._go_on()

    async def settle(self) -> None:
        """Wait until all that was taken is hashed."""
        while self._resting or self._job is not None or self.queue.waiting:
            self._settled = self._loop.create_future()
            self.flush()
            await self._settled

    def drop(self) -> None:
        """Stops hashing. A job that already runs in a thread is left to finish."""
        self._hashing.forget(self)
        self._resting = False
        self.queue.clear()

    def hashed(self) -> None:
        """The round is over, or the other thread is done."""
        self._resting = False
        self.queue.release()
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
        self._on_hashed()

    def _go_on(self) -> None:
        """Hash what waits, if it is worth it or due, and nobody else is going to."""
        waiting, executor = self.queue.waiting, self._hashing.executor
        worth = waiting >= THREAD_JOB_BYTES or (self._due and waiting > 0)
        if self._resting or self._job is not None or not worth:
            return
        if executor is None or waiting < SLICE:
            self.queue.take(SLICE)
            self.queue.hash()
            self._due = self.queue.waiting > 0
            if self._due:
                self._loop.call_soon(self._go_on)
            self.hashed()
        else:
            self._due = False
            self.queue.take()
            self._job = self._loop.run_in_executor(executor, self.queue.hash)
            self._job.add_done_callback(self._done)

    def _done(self, _job: asyncio.Future[None]) -> None:
        self._job = None
        self.hashed()
        self._go_on()
