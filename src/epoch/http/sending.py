"""The way of a response to its client, as fast as the client takes it."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from epoch.http.message import BodyStream, ClientGone, Response
from epoch.http.relay import relay
from epoch.http.sendfile import send_file, unsent
from epoch.metrics import metrics

logger = logging.getLogger(__name__)

WRITE_HIGH: Final = 256 * 1024
"""Bytes queued for a client before a stream waits for it."""


class Sender:
    """The sending half of one connection."""

    def __init__(self, transport: asyncio.Transport, *, secure: bool, stall: float) -> None:
        """`stall`: seconds after which a client that takes nothing is given up."""
        self.lost = False
        """Whether the connection is gone."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._secure = secure
        self._stall = stall
        self._writable: asyncio.Future[None] | None = None
        self._queued = 0  # `unsent` bytes, as last looked at
        self._queued_since = 0.0  # that many
        transport.set_write_buffer_limits(high=WRITE_HIGH)

    # Flow control, as the transport's callbacks tell it

    def pause(self) -> None:
        """The client reads more slowly than we send."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume(self) -> None:
        """The client has caught up, or is gone."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def look(self, now: float) -> int | None:
        """Bytes that are not out yet, or None where the client has taken none for too long."""
        queued = unsent(self._transport)
        if queued != self._queued or not queued:
            self._queued, self._queued_since = queued, now
        elif now - self._queued_since > self._stall:
            return None
        return queued

    # Responses

    async def send(self, method: str, response: Response, head: bytes) -> int:
        """Send a response to a request by `method`, and close its stream; returns the bytes of its
        body that went out. `ClientGone` where it could not be sent whole."""
        stream = None if isinstance(response.body, bytes) else response.body
        try:
            if self.lost:
                raise ClientGone("the connection was lost")
            if method == "HEAD" or response.status in (204, 304):
                self._transport.write(head)
                return 0
            if isinstance(response.body, bytes):
                self._transport.write(head + response.body)
                await self._drained()
                metrics.bytes_sent += len(response.body)
                return len(response.body)
            self._transport.write(head)
            return await self._stream(response.body)
        finally:
            if stream is not None:
                await stream.aclose()

    async def _stream(self, stream: BodyStream) -> int:
        """Send a stream with backpressure. A failure cuts the connection: no clean end."""
        try:
            if not self._secure and await self._send_around(stream):
                return stream.length
            sent = 0
            async for chunk in stream:
                if self.lost:
                    raise ClientGone("the connection was lost")
                self._transport.write(chunk)
                sent += len(chunk)
                metrics.bytes_sent += len(chunk)
                await self._drained()
            if sent != stream.length:
                raise ClientGone(f"the store gave {sent} bytes of {stream.length}")
        except ClientGone:
            raise
        except Exception as error:
            logger.error("a response was cut: %s", error)
            raise ClientGone("the response could not be completed") from error
        return sent

    async def _send_around(self, stream: BodyStream) -> bool:
        """Send a stream from a file or a socket, around the transport; False where it has none."""
        transport, length = self._transport, stream.length
        if (file := stream.fileno()) is not None:
            await self._empty()
            await send_file(transport, file, stream.offset, length, self._stall)
        elif (source := stream.take_socket()) is not None:
            transport.write(source.first)
            metrics.bytes_sent += len(source.first)
            await self._empty()
            if rest := length - len(source.first):
                await relay(transport, source, rest, self._stall)
        else:
            return False
        if not self.lost:
            transport.set_write_buffer_limits(high=WRITE_HIGH)
        return True

    async def _empty(self) -> None:
        """What is sent around the transport must not overtake what the transport still holds."""
        self._transport.set_write_buffer_limits(high=0)
        await self._drained()

    async def _drained(self) -> None:
        while self._writable is not None:
            await asyncio.shield(self._writable)
        if self.lost:
            raise ClientGone("the connection was lost")
