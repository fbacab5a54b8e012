"""Ships the parts of one upload, several at a time, and completes or aborts it.

The multipart upload is created when the first part is full: a client that sends less leaves no
trace in the store, and a blob of one part is a single PutObject.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from epoch._fastio import PartBuffer
from epoch.metrics import metrics
from epoch.store.base import Multipart, Part, Store


class ExistingUpload(NamedTuple):
    """A multipart upload, None where there is none yet, and its parts in order."""

    upload: Multipart | None
    parts: list[Part]


NOTHING: Final = ExistingUpload(None, [])


class Dispatcher:
    """One upload to one key."""

    def __init__(
        self,
        store: Store,
        key: str,
        in_flight: int,
        *,
        on_room: Callable[[], None],
        on_failure: Callable[[Exception], None],
        begun: ExistingUpload = NOTHING,
        claim: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`on_room()`: a part is done. `on_failure(error)`: a part failed for good, give up.
        `begun`: what is in the store already; `claim()`: called before anything is added to it."""
        self._store = store
        self._key = key
        self._in_flight = in_flight
        self._on_room = on_room
        self._on_failure = on_failure
        self._begun = begun
        self._claim = claim
        self._upload: Multipart | None = None  # once it may be written to
        self._opening: asyncio.Task[Multipart] | None = None
        self._created: Multipart | None = None  # ours to abort
        self._tasks: dict[asyncio.Task[None], int] = {}  # under way, with their numbers
        self._failed: int | None = None  # the first part that is not stored, and will not be
        self._parts = list(begun.parts)
        self._next_number = len(begun.parts) + 1
        self._next_offset = sum(part.size for part in begun.parts)
        self._error: Exception | None = None

    @property
    def has_room(self) -> bool:
        """Whether another part may be on its way now."""
        return len(self._tasks) < self._in_flight

    @property
    def has_shipped(self) -> bool:
        """Whether any part was sent from here."""
        return self._next_number > len(self._begun.parts) + 1

    @property
    def offset(self) -> int:
        """Bytes in all parts so far."""
        return self._next_offset

    def ship(self, part: PartBuffer) -> None:
        """Send a part, ours from now on. Parts are numbered in the order of these calls."""
        number, offset = self._next_number, self._next_offset
        self._next_number += 1
        self._next_offset += part.filled
        task = asyncio.create_task(self._ship(number, offset, part))
        self._tasks[task] = number
        task.add_done_callback(lambda task: self._shipped(task, part))

    async def finish(
        self, last: PartBuffer | None, before_visible: Callable[[], Awaitable[None]]
    ) -> None:
        """Send the last part (None where the body is empty) and make the object visible.

        The caller has verified the digest. `before_visible()`: called when all parts are stored,
        which may be much later. Raises `StoreError`; `abort` is still the caller's.
        """
        if self._next_number == 1:
            try:
                await before_visible()
                await self._store.put(self._key, last if last is not None else b"")
            finally:
                if last is not None:
                    last.release()
            return
        if last is not None:
            self.ship(last)
        stored = await self.settle()
        assert stored.upload is not None
        await before_visible()
        await self._store.complete_multipart(stored.upload, stored.parts)
        metrics.multiparts -= 1

    async def settle(self) -> ExistingUpload:
        """Wait until all parts are in the store. Raises `StoreError`."""
        while self._tasks and self._error is None:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        if self._error is not None:
            raise self._error
        return ExistingUpload(
            self._upload or self._begun.upload, sorted(self._parts, key=lambda part: part.number)
        )

    async def settle_begin(self) -> ExistingUpload:
        """After a failure: the parts that are stored without a gap, once none that is under way
        can add to them."""
        while waiting := [
            task
            for task, number in self._tasks.items()
            if self._failed is None or number < self._failed
        ]:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stored = {part.number: part for part in self._parts}
        whole = list[Part]()
        while (part := stored.get(len(whole) + 1)) is not None:
            whole.append(part)
        return ExistingUpload(self._upload or self._begun.upload, whole)

    async def put_last(self, data: memoryview) -> Part:
        """Store the part after all that were shipped, which is still the caller's: it counts
        only if nothing follows."""
        upload = await self._opened()
        return await self._store.put_part(upload, self._next_number, self._next_offset, data)

    def hand_over(self) -> None:
        """Transfers ownership of the stored parts: `abort` no longer removes them."""
        if self._created is not None:
            self._created = None
            metrics.multiparts -= 1

    async def abort(self) -> None:
        """Stop all parts, then free what the store holds because of us: an upload that was begun
        before is left. Raises `StoreError`."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._opening is not None:
            # Never cancelled: a creation whose answer is lost is an upload that nobody can abort.
            await asyncio.wait([self._opening])
            self._opening.exception()
        created, self._created = self._created, None
        if created is not None:
            await self._store.abort_multipart(created)
            metrics.multiparts -= 1

    async def _ship(self, number: int, offset: int, part: PartBuffer) -> None:
        upload = await self._opened()
        started = asyncio.get_running_loop().time()
        self._parts.append(await self._store.put_part(upload, number, offset, part))
        metrics.part(part.filled, asyncio.get_running_loop().time() - started)

    async def _opened(self) -> Multipart:
        if self._upload is None:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
            self._upload = await asyncio.shield(self._opening)
        return self._upload

    async def _open(self) -> Multipart:
        if self._begun.upload is not None:
            if self._claim is not None:
                await self._claim()
            return self._begun.upload
        self._created = await self._store.create_multipart(self._key)
        metrics.multiparts += 1
        return self._created

    def _shipped(self, task: asyncio.Task[None], part: PartBuffer) -> None:
        # Also for a task that was cancelled before it ran.
        number = self._tasks.pop(task)
        part.release()
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            self._on_room()
            return
        self._failed = number if self._failed is None else min(self._failed, number)
        if error is not None and self._error is None:
            assert isinstance(error, Exception)
            self._error = error
            self._on_failure(error)
