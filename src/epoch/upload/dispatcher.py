"""Ships the parts of one upload, several at a time, and completes or aborts it.

The multipart upload is created when the first part is full: a client that sends less leaves no
trace in the store, and a blob of one part is a single PutObject.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from epoch._fastio import PartBuffer
from epoch.metrics import metrics
from epoch.store.base import Multipart, Part, Store


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
    ) -> None:
        """`on_room()`: a part is done. `on_failure(error)`: a part failed for good, give up."""
        self._store = store
        self._key = key
        self._in_flight = in_flight
        self._on_room = on_room
        self._on_failure = on_failure
        self._creation: asyncio.Task[Multipart] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._parts: list[Part] = []
        self._next_number = 1
        self._next_offset = 0
        self._error: Exception | None = None

    @property
    def has_room(self) -> bool:
        """Whether another part may be on its way now."""
        return len(self._tasks) < self._in_flight

    def ship(self, part: PartBuffer) -> None:
        """Send a part, ours from now on. Parts are numbered in the order of these calls."""
        number, offset = self._next_number, self._next_offset
        self._next_number += 1
        self._next_offset += part.filled
        task = asyncio.create_task(self._ship(number, offset, part))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._shipped(task, part))

    async def finish(self, last: PartBuffer | None) -> None:
        """Send the last part (None where the body is empty) and make the object visible.

        The caller has verified the digest. Raises `StoreError`; `abort` is still the caller's.
        """
        if self._next_number == 1:
            try:
                await self._store.put(self._key, last if last is not None else b"")
            finally:
                if last is not None:
                    last.release()
            return
        if last is not None:
            self.ship(last)
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._error is not None:
            raise self._error
        assert self._creation is not None
        parts = sorted(self._parts, key=lambda part: part.number)
        await self._store.complete_multipart(await self._creation, parts)
        metrics.multiparts -= 1

    async def abort(self) -> None:
        """Stop all parts, then free what the store holds. Raises `StoreError`."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        creation, self._creation = self._creation, None
        if creation is None:
            return
        # Never cancelled: a creation whose answer is lost is an upload that nobody can abort.
        await asyncio.wait([creation])
        if creation.exception() is None:
            await self._store.abort_multipart(creation.result())
            metrics.multiparts -= 1

    async def _ship(self, number: int, offset: int, part: PartBuffer) -> None:
        if self._creation is None:
            self._creation = asyncio.create_task(self._create())
        upload = await asyncio.shield(self._creation)
        started = asyncio.get_running_loop().time()
        self._parts.append(await self._store.put_part(upload, number, offset, part))
        metrics.part(part.filled, asyncio.get_running_loop().time() - started)

    async def _create(self) -> Multipart:
        upload = await self._store.create_multipart(self._key)
        metrics.multiparts += 1
        return upload

    def _shipped(self, task: asyncio.Task[None], part: PartBuffer) -> None:
        # Also for a task that was cancelled before it ran.
        self._tasks.discard(task)
        part.release()
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._on_room()
        elif self._error is None:
            assert isinstance(error, Exception)
            self._error = error
            self._on_failure(error)
