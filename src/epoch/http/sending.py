"""The way of a response to its client, as fast as the client takes it."""

from __future__ import annotations

import asyncio
from typing import Final

from epoch.http.message import BodyStream, ClientGone, Response, ResponseCut
from epoch.http.relay import relay
from epoch.http.sendfile import send_file, unacknowledged
from epoch.metrics import metrics

WRITE_HIGH: Final = 64 * 1024
"""Bytes queued for a client above which its response waits."""

PIECE: Final = 64 * 1024
"""Bytes that are handed to the transport at a time: under TLS it encrypts all of them at once."""

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

    def lose(self) -> None:
        """The connection is gone: end what is being sent, whatever it waits for."""
        self.lost = True
        self.resume()
        if self._sending is not None:
            self._sending.cancel()

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
            elif isinstance(response.body, bytes) and len(response.body) <= PIECE:
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
                if self._secure or not await self._send_around(stream):
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
        for start in range(0, len(chunk), PIECE):
            piece = view[start : start + PIECE]
            self._write(piece)
            self._count_body(len(piece))
            await self._drained()

    async def _send_around(self, stream: BodyStream) -> bool:
        """Send a stream from a file or a socket, around the transport; False where it has none."""
        transport, left = self._transport, stream.length - self.sent
        file = stream.fileno()
        source = None if file is not None else stream.take_socket()
        if file is None and source is None:
            return False
        try:
            if file is not None:
                await self._empty()
                await send_file(transport, file, stream.offset + self.sent, left, self._went_out)
            elif source is not None:
                await self._send_chunk(source.first)
                await self._empty()
                if rest := left - len(source.first):
                    await relay(transport, source, rest, self._went_out)
        finally:
            if not self.lost:
                transport.set_write_buffer_limits(high=WRITE_HIGH)
        return True

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

    async def _drained(self) -> None:
        while self._writable is not None:
            await asyncio.shield(self._writable)
        if self.lost:
            raise ClientGone("the connection was lost")
