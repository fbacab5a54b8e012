"""The bodies of responses to GET and HEAD of a blob."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Final, Self

from epoch import log
from epoch.store.base import ObjectInfo, ObjectReader, OpenSocket, Store, StoreError, replaced

RESUMES: Final = 5
"""How often in a row reading goes on after the store broke off, where not a byte came in between;
each time the store has its own attempts."""

_PAUSE: Final = 0.1
"""Seconds; full jitter between 0 and this, doubled each time in a row."""


class HeadBody:
    """The body of a response to HEAD: it has a length, and nothing is opened for it."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.offset = 0

    def fileno(self) -> int | None:
        """There is no file."""
        return None

    def take_socket(self) -> None:
        """There is no socket."""
        return

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise StoreError("the body of a response to HEAD is not sent")

    async def resume(self, sent: int, error: Exception) -> None:  # noqa: ARG002
        """There is nothing to go on with."""
        raise error

    async def aclose(self) -> None:
        """Nothing is held."""


class BlobStream:
    """A stored object, or a range of it, open for reading: a `BodyStream` that owns it.

    What it gives is of one and the same object, also where the store breaks off and it is opened
    again: its etag and its size must be the same.
    """

    def __init__(
        self,
        store: Store,
        context: AbstractAsyncContextManager[ObjectReader | None],
        reader: ObjectReader,
        start: int,
        stop: int,
    ) -> None:
        self._store = store
        self._context: AbstractAsyncContextManager[ObjectReader | None] | None = context
        self._reader = reader
        self._chunks: AsyncGenerator[bytes, None] | None = None
        self._left = stop - start  # from the reader
        self._resumed = 0  # bytes that had been sent at the last time
        self._resumes = 0  # in a row
        self.info: Final = reader.info
        """The whole object."""
        self.offset: Final = start
        self.length: Final = stop - start

    @classmethod
    async def open(
        cls, store: Store, key: str, span: tuple[int, int] | None = None, *, etag: str = ""
    ) -> Self | None:
        """Open bytes `span` (start and exclusive stop, or all) of `key`; None where none is.

        `etag`: see `Store.open`. Whoever gets it must call `aclose`.
        """
        context = store.open(key, *(span or ()), etag=etag)
        reader = await context.__aenter__()
        if reader is None:
            await context.__aexit__(None, None, None)
            return None
        start, stop = span or (0, reader.info.size)
        return cls(store, context, reader, start, stop)

    def fileno(self) -> int | None:
        """The object's file, or None where it is not one."""
        return self._reader.fileno()

    def take_socket(self) -> OpenSocket | None:
        """The store's socket, where the reader can give it away."""
        return self._reader.take_socket()

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = self._read()
        return self._chunks

    async def _read(self) -> AsyncGenerator[bytes, None]:
        left = self._left
        chunks = aiter(self._reader)
        try:
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        if left:
            # Raised, so that the connection is cut: the client must not take this for the blob.
            raise StoreError(
                f"{self.info.key}: the store sent {self._left - left} bytes of {self._left}"
            )

    async def resume(self, sent: int, error: Exception) -> None:
        """Open the rest, after `sent` bytes; `StoreError`: it cannot be had, or is not worth
        another attempt."""
        key, start = self.info.key, self.offset + sent
        self._resumes = 1 if sent > self._resumed else self._resumes + 1
        self._resumed = sent
        if self._resumes > RESUMES:
            raise StoreError(f"{key}: broken off at byte {start} once more: {error}") from error
        log.warn("a blob is read on where the store broke off", key=key, at=start, reason=error)
        await self._close()
        await asyncio.sleep(random.uniform(0.0, _PAUSE * 2 ** (self._resumes - 1)))  # noqa: S311
        span = start, self.offset + self.length
        context = self._store.open(key, *span, etag=self.info.etag)
        reader = await context.__aenter__()
        if reader is None or reader.info.size != self.info.size:
            await context.__aexit__(None, None, None)
            raise replaced(key) from error
        self._context, self._reader, self._left = context, reader, self.length - sent

    async def aclose(self) -> None:
        """Give the reader back to the store, however far it was read."""
        await self._close()

    async def _close(self) -> None:
        chunks, self._chunks = self._chunks, None
        context, self._context = self._context, None
        try:
            # Not left to the garbage collector when the client is gone half-way.
            if chunks is not None:
                await chunks.aclose()
        finally:
            if context is not None:
                await context.__aexit__(None, None, None)


class Parts:
    """Several ranges of an object, each after the text that introduces it: a `BodyStream` that
    opens one after the other."""

    def __init__(self, store: Store, info: ObjectInfo, pieces: Iterable[bytes | tuple[int, int]]):
        """`pieces`: text as it is, and ranges (start and exclusive stop) of the object."""
        self._store = store
        self._info = info
        self._pieces = deque(pieces)
        self._current: BlobStream | None = None
        self._given = 0  # bytes of the pieces before the current one
        self.offset = 0
        self.length = sum(
            len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            for piece in self._pieces
        )

    def fileno(self) -> int | None:
        """None: not all of it lies in the file."""
        return None

    def take_socket(self) -> OpenSocket | None:
        """None: not all of it comes from there."""
        return None

    async def open(self) -> None:
        """Open the first range: what is wrong with the store is then known before the answer."""
        first = next(piece for piece in self._pieces if not isinstance(piece, bytes))
        self._current = await self._open(first)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._pieces:
            piece = self._pieces[0]
            if isinstance(piece, bytes):
                size = len(piece)
                self._pieces.popleft()
                self._given += size
                yield piece
                continue
            if self._current is None:
                self._current = await self._open(piece)
            async for chunk in self._current:
                yield chunk
            await self._current.aclose()
            self._given += self._current.length
            self._current = None
            self._pieces.popleft()

    async def _open(self, span: tuple[int, int]) -> BlobStream:
        key = self._info.key
        stored = await BlobStream.open(self._store, key, span, etag=self._info.etag)
        if stored is None or stored.info.size != self._info.size:
            if stored is not None:
                await stored.aclose()
            raise replaced(key)
        return stored

    async def resume(self, sent: int, error: Exception) -> None:
        """See `BlobStream.resume`."""
        if self._current is None:
            raise error
        await self._current.resume(sent - self._given, error)

    async def aclose(self) -> None:
        """Give back what is open."""
        if self._current is not None:
            await self._current.aclose()
