"""The bodies of responses to GET and HEAD of a blob."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Self

from epoch.store.base import ObjectInfo, ObjectReader, OpenSocket, Store, StoreError


class Unsent:
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

    async def aclose(self) -> None:
        """Nothing is held."""


class Stored:
    """A stored object, or a range of it, open for reading: a `BodyStream` that owns it."""

    def __init__(
        self,
        context: AbstractAsyncContextManager[ObjectReader | None],
        reader: ObjectReader,
        start: int,
        stop: int,
    ) -> None:
        self._context = context
        self._reader = reader
        self._chunks: AsyncGenerator[bytes, None] | None = None
        self.offset = start
        self.length = stop - start

    @classmethod
    async def open(cls, store: Store, key: str, span: tuple[int, int] | None = None) -> Self | None:
        """Open bytes `span` (start and exclusive stop, or all) of `key`; None where none is.

        Whoever gets it must call `aclose`.
        """
        context = store.open(key, *span) if span else store.open(key)
        reader = await context.__aenter__()
        if reader is None:
            await context.__aexit__(None, None, None)
            return None
        start, stop = span or (0, reader.info.size)
        return cls(context, reader, start, stop)

    @property
    def info(self) -> ObjectInfo:
        """The whole object."""
        return self._reader.info

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
        left = self.length
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
                f"{self.info.key}: the store sent {self.length - left} bytes of {self.length}"
            )

    async def aclose(self) -> None:
        """Give the reader back to the store, however far it was read."""
        try:
            # Not left to the garbage collector when the client is gone half-way.
            if self._chunks is not None:
                await self._chunks.aclose()
        finally:
            await self._context.__aexit__(None, None, None)
