"""The way of a response to its client, as fast as the client takes it."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from epoch.http.message import BodyStream, ClientGone, Response
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
        descriptor = stream.fileno()
        try:
            if descriptor is not None and not self._secure:
                return await self._send_file(descriptor, stream.offset, stream.length)
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

    async def _send_file(self, descriptor: int, offset: int, count: int) -> int:
        # What is sent around the transport must not overtake what the transport still holds.
        self._transport.set_write_buffer_limits(high=0)
        await self._drained()
        sent = await send_file(self._transport, descriptor, offset, count, self._stall)
        metrics.bytes_sent += sent
        if not self.lost:
            self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        return sent

    async def _drained(self) -> None:
        while self._writable is not None:
            await asyncio.shield(self._writable)
        if self.lost:
            raise ClientGone("the connection was lost")
