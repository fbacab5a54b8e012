"""The body of an upload request: sent from the caller's own memory, and never after its time.

uvloop queues a memoryview itself, not a copy, and a connection that is closed (not aborted) keeps
on sending what is queued. A part buffer that is filled anew meanwhile would go out as the body of
the old request, which nothing downstream can detect. So the sender here waits until the transport
has sent each piece, and `settle` aborts what has not been sent.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter

_FIRST: Final = 8 * 1024
"""Bytes. aiohttp joins the first write to the headers, which copies it."""
_PIECE: Final = 1024 * 1024
_PIECE_TLS: Final = 512 * 1024
"""Bytes that are handed over before we wait, and that must go out within the stall limit. Over TLS
all of a piece is encrypted into memory of its own, which no budget counts."""


class PartBody(aiohttp.Payload):
    """`view` as the body of one attempt, with the time that the attempt has left.

    `limit` is pushed back to `stall` seconds whenever a piece has been sent, and to `silence`
    seconds once all of it has. `view` belongs to the caller, who calls `settle` before he
    releases it.
    """

    _autoclose = True

    def __init__(
        self,
        view: memoryview,
        *,
        tls: bool,
        limit: asyncio.Timeout,
        stall: float,
        silence: float,
    ) -> None:
        super().__init__(view)
        self._size = view.nbytes
        self._tls = tls
        self._limit = limit
        self._stall = stall
        self._silence = silence
        self._transport: asyncio.WriteTransport | None = None
        self._writing = False
        self._refused = False

    def __len__(self) -> int:
        return self._view.nbytes

    @property
    def _view(self) -> memoryview:
        view: memoryview = self._value
        return view

    def decode(self, *_: Any, **__: Any) -> str:
        """Refused; a part is never a string."""
        raise TypeError("the body of a part is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - aiohttp's interface
    ) -> None:
        """Send the body; on any failure the connection is cut at once."""
        transport = writer.transport
        if self._refused or transport is None:
            raise ConnectionAbortedError("the request is over")
        self._transport = transport
        self._writing = True
        try:
            if not self._tls:
                # drain() now waits until everything is with the kernel. Over TLS the transport
                # holds no view: what it queues is encrypted.
                transport.set_write_buffer_limits(0)
            await self._send(writer, transport)
            if not self._tls:
                transport.set_write_buffer_limits()
            self._transport = None
        except BaseException:
            transport.abort()
            raise
        finally:
            self._writing = False

    async def _send(self, writer: AbstractStreamWriter, transport: asyncio.WriteTransport) -> None:
        loop = asyncio.get_running_loop()
        size = self._view.nbytes
        step = _PIECE_TLS if self._tls else _PIECE
        start, stop = 0, min(_FIRST, size)
        while start < stop:
            with self._view[start:stop] as piece:
                await writer.write(piece)
                await writer.drain()
            if self._refused or transport.is_closing():
                raise ConnectionAbortedError("the request is over")
            self._limit.reschedule(loop.time() + self._stall)
            start, stop = stop, min(stop + step, size)
        self._limit.reschedule(loop.time() + self._silence)

    async def settle(self) -> None:
        """Return once nothing can send from the view any more, whatever became of the request.

        Also when it is cancelled: it then raises at its end.
        """
        self._refused = True
        if self._transport is not None:
            self._transport.abort()
        cancelled: asyncio.CancelledError | None = None
        while not self._settled():
            # uvloop gives a view back two turns of the loop after the one that aborted it.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _settled(self) -> bool:
        if self._writing:
            return False
        transport = self._transport
        return self._tls or transport is None or transport.get_write_buffer_size() == 0
