"""The way of a response to its client, as fast as the client takes it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import Final

from epoch.http.memory import SMALL
from epoch.http.message import BodyStream, ClientGone, Response, ResponseCut
from epoch.http.relay import pieces, relay
from epoch.http.sendfile import send_file, unacknowledged
from epoch.metrics import metrics

WRITE_HIGH: Final = 64 * 1024
"""Bytes queued for a client above which its response waits."""

SECURE_HIGH: Final = 16 * 1024
"""The same under TLS. As much again lies encrypted in the transport below."""

PIECE: Final = 16 * 1024
"""Bytes handed to a TLS transport at a time: a record (RFC 8446, section 5.1). It encrypts at once
whatever it gets, into memory that the connection then keeps."""

RATE_SPAN: Final = 30.0
"""Seconds over which the minimum rate is averaged."""


class Sender:
    """The sending half of one connection."""

    def __init__(
        self, transport: asyncio.Transport, *, secure: bool, stall: float, min_rate: float
    ) -> None:
        """A client is given up that takes nothing for `stall` seconds, or fewer than `min_rate`
        bytes a second, while something is being sent to it."""
        self.lost = False
        """Whether the connection is gone; set by `lose`."""
        self.sent = 0
        """Bytes of the body that have gone out, of the response that is or was last sent."""
        self._transport = transport
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        self._loop = asyncio.get_running_loop()
        self._secure = secure
        self._stall = stall
        self._min_rate = min_rate
        self._writable: asyncio.Future[None] | None = None
        self._sending: asyncio.Task[None] | None = None  # sends a body, and may be cancelled
        # Progress, for the deadlines: all bytes handed out, and those that the client has taken
        self._total = 0
        self._taken = 0
        self._taken_since = self._loop.time()
        self._rate_taken = 0
        self._rate_since = self._taken_since
        self._high = SECURE_HIGH if secure else WRITE_HIGH
        self._piece = PIECE if secure else sys.maxsize  # else it is not copied
        transport.set_write_buffer_limits(high=self._high)

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

    def lose(self) -> None:
        """The connection is gone: end what is being sent, whatever it waits for."""
        self.lost = True
        self.resume()
        if self._sending is not None:
            self._sending.cancel()

    @property
    def taken(self) -> int | None:
        """Bytes that the client has taken, as last looked at; None where no body is being sent."""
        return None if self._sending is None else self._taken

    def look(self, now: float) -> int | None:
        """Bytes that are still queued here, or None where the client takes too little; called
        about once a second."""
        queued = self._transport.get_write_buffer_size()
        held = 0
        if queued or self._sending is not None:
            held = queued + unacknowledged(self._descriptor)
        taken = self._total - held
        if taken > self._taken or not held:
            self._taken, self._taken_since = taken, now
        elif now - self._taken_since > self._stall:
            return None
        if not held:
            self._rate_taken, self._rate_since = taken, now
        elif now - self._rate_since >= RATE_SPAN:
            if taken - self._rate_taken < self._min_rate * (now - self._rate_since):
                return None
            self._rate_taken, self._rate_since = taken, now
        return queued

    # Responses

    async def send(self, method: str, response: Response, head: bytes) -> None:
        """Send a response to a request by `method`, and close its stream. `ClientGone` or
        `ResponseCut` where it could not be sent whole: the connection is then of no more use."""
        self.sent = 0
        stream = None if isinstance(response.body, bytes) else response.body
        try:
            if self.lost:
                raise ClientGone("the connection was lost")
            if method == "HEAD" or response.status in (204, 304):
                self._write(head)
            elif isinstance(response.body, bytes) and len(response.body) <= SMALL:
                self._write(head + response.body)
                self._count_body(len(response.body))
                await self._drained()
            else:
                self._write(head)
                await self._send_body(response.body)
        finally:
            if stream is not None:
                await stream.aclose()

    async def _send_body(self, body: bytes | BodyStream) -> None:
        """Send it; ends at once with `ClientGone` when the connection is lost."""
        self._sending = task = asyncio.current_task()
        assert task is not None
        try:
            if isinstance(body, bytes):
                await self._send_chunk(body)
                await self._empty()  # until then the transport keeps all of it
                self._restore()
            else:
                await self._send_stream(body)
        except asyncio.CancelledError:
            if not self.lost:
                raise
            task.uncancel()
            raise ClientGone("the connection was lost") from None
        finally:
            self._sending = None

    async def _send_stream(self, stream: BodyStream) -> None:
        """Send a stream, and go on where whatever gives it has broken off."""
        while self.sent < stream.length:
            try:
                if not await self._send_around(stream):
                    await self._send_chunks(stream)
                if self.sent < stream.length:
                    raise EOFError(f"it ended after {self.sent} bytes of {stream.length}")
            except (ClientGone, ResponseCut):
                raise
            except Exception as error:  # noqa: BLE001 - whatever comes out of a store
                if self.sent < stream.length:
                    await self._resume(stream, error)

    async def _resume(self, stream: BodyStream, error: Exception) -> None:
        try:
            await stream.resume(self.sent, error)
        except Exception as final:
            raise ResponseCut(str(final) or type(final).__name__) from final

    async def _send_chunks(self, stream: BodyStream) -> None:
        async for chunk in stream:
            if len(chunk) > stream.length - self.sent:
                raise ResponseCut(f"more than its {stream.length} bytes were given")
            await self._send_chunk(chunk)

    async def _send_chunk(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        for start in range(0, len(chunk), self._piece):
            piece = view[start : start + self._piece]
            self._write(piece)
            self._count_body(len(piece))
            await self._drained()

    async def _send_around(self, stream: BodyStream) -> bool:
        """Send a stream from a file or a socket; False where it has none, or where it is a file and
        has to be encrypted."""
        file = None if self._secure else stream.fileno()
        source = None if file is not None else stream.take_socket()
        if file is None and source is None:
            return False
        try:
            if file is not None:
                await self._empty()
                start, left = stream.offset + self.sent, stream.length - self.sent
                await send_file(self._transport, file, start, left, self._went_out)
            elif source is not None:
                descriptor, stall = source.descriptor, source.stall
                await self._send_chunk(source.first)
                source = None  # and with it what has been sent
                await self._send_socket(descriptor, stream.length - self.sent, stall)
        finally:
            self._restore()
        return True

    async def _send_socket(self, descriptor: int, count: int, stall: float) -> None:
        if not count:
            return
        if self._secure:
            async with aclosing(pieces(descriptor, count, SMALL, stall)) as received:
                async for piece in received:
                    await self._send_chunk(piece)
        else:
            await self._empty()
            await relay(self._transport, descriptor, count, stall, self._went_out)

    def _write(self, data: bytes | memoryview) -> None:
        self._transport.write(data)
        self._total += len(data)

    def _count_body(self, count: int) -> None:
        self.sent += count
        metrics.bytes_sent += count

    def _went_out(self, count: int) -> None:
        self._total += count
        self._count_body(count)

    async def _empty(self) -> None:
        """What is sent around the transport must not overtake what the transport still holds."""
        self._transport.set_write_buffer_limits(high=0)
        await self._drained()

    def _restore(self) -> None:
        if not self.lost:
            self._transport.set_write_buffer_limits(high=self._high)

    async def _drained(self) -> None:
        while self._writable is not None:
            await asyncio.shield(self._writable)
        if self.lost:
            raise ClientGone("the connection was lost")
