"""Stores as seen by a test that plays with time: older than they are, or one step at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from epoch.store.base import Multipart, ObjectInfo, ObjectReader, Part, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer


class Aged:
    """A store whose objects are `ages[key]` seconds older than they are, until written again."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.ages: dict[str, float] = {}
        self.multipart_age = 0.0

    description = "aged"
    min_part_size = 1

    def older(self, seconds: float, *keys: str) -> None:
        """Let these objects be older."""
        self.ages |= dict.fromkeys(keys, seconds)

    def _aged(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, modified=info.modified - self.ages.get(info.key, 0))

    async def check(self) -> None:
        await self.inner.check()

    async def head(self, key: str) -> ObjectInfo | None:
        info = await self.inner.head(key)
        return None if info is None else self._aged(info)

    async def get(self, key: str, limit: int) -> bytes | None:
        return await self.inner.get(key, limit)

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        found = await self.inner.fetch(key, limit)
        return None if found is None else (self._aged(found[0]), found[1])

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, etag: str = ""
    ) -> AbstractAsyncContextManager[ObjectReader | None]:
        return self.inner.open(key, start, stop, etag=etag)

    async def put(self, key: str, data: Buffer) -> None:
        await self.inner.put(key, data)
        self.ages.pop(key, None)

    async def put_new(self, key: str, data: Buffer) -> bool:
        return await self.inner.put_new(key, data)

    async def make_durable(self, keys: Sequence[str]) -> None:
        await self.inner.make_durable(keys)

    async def delete(self, key: str) -> None:
        await self.inner.delete(key)
        self.ages.pop(key, None)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        async for info in self.inner.list(prefix, after):
            yield self._aged(info)

    async def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for info in self.inner.list_folder(prefix):
            yield self._aged(info)

    async def names(self, prefix: str) -> Sequence[str]:
        return await self.inner.names(prefix)

    async def create_multipart(self, key: str) -> Multipart:
        return await self.inner.create_multipart(key)

    async def put_part(self, upload: Multipart, number: int, offset: int, data: Buffer) -> Part:
        return await self.inner.put_part(upload, number, offset, data)

    async def sync_parts(self, upload: Multipart) -> None:
        await self.inner.sync_parts(upload)

    async def complete_multipart(self, upload: Multipart, parts: Sequence[Part]) -> None:
        await self.inner.complete_multipart(upload, parts)

    async def abort_multipart(self, upload: Multipart) -> None:
        await self.inner.abort_multipart(upload)

    async def list_multiparts(self, prefix: str) -> AsyncIterator[tuple[Multipart, float]]:
        async for upload, began in self.inner.list_multiparts(prefix):
            yield upload, began - self.multipart_age

    async def presign(self, key: str, expires: int) -> str | None:
        return await self.inner.presign(key, expires)

    async def move(self, source: str, target: str, size: int) -> None:
        await self.inner.move(source, target, size)

    async def close(self) -> None:
        await self.inner.close()


class Stepped(Aged):
    """The store of one task, which does `left` operations and then waits to be let on.

    Shares the ages of the store that it wraps.
    """

    def __init__(self, store: Aged) -> None:
        super().__init__(store.inner)
        self.ages = store.ages
        self.left = 0
        self.done = 0
        self.sweeps_end = 0
        """The operation that withdrew an announcement."""
        self._waits = False
        self._let_on = asyncio.Event()

    async def run(self, task: asyncio.Task[object], count: int | None) -> None:
        """Let the task do `count` operations more (None: all that it wants), then wait until it
        is done or asks for the next one."""
        self.left = 10**9 if count is None else count
        self._let_on.set()
        async with asyncio.timeout(20):
            while not task.done() and not (self.left == 0 and self._waits):  # noqa: ASYNC110
                await asyncio.sleep(0.0002)

    async def _turn(self) -> None:
        while self.left == 0:
            self._let_on.clear()
            self._waits = True
            await self._let_on.wait()
        self._waits = False
        self.left -= 1
        self.done += 1

    async def head(self, key: str) -> ObjectInfo | None:
        await self._turn()
        return await super().head(key)

    async def get(self, key: str, limit: int) -> bytes | None:
        await self._turn()
        return await super().get(key, limit)

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        await self._turn()
        return await super().fetch(key, limit)

    async def put(self, key: str, data: Buffer) -> None:
        await self._turn()
        await super().put(key, data)

    async def delete(self, key: str) -> None:
        await self._turn()
        await super().delete(key)
        if key.startswith("_gc/sweeps/"):
            self.sweeps_end = self.done

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        await self._turn()
        found = [info async for info in super().list(prefix, after)]
        for info in found:
            yield info

    async def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        await self._turn()
        found = [info async for info in super().list_folder(prefix)]
        for info in found:
            yield info
