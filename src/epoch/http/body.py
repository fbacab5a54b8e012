"""The body of one request: its framing, and its way into a sink.

Knows no transport: the connection hands it received bytes and gives it three verbs (pause reading,
resume reading, send 100 Continue).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from epoch._fastio import ChunkedDecoder, fill
from epoch.errors import Code, RegistryError
from epoch.http.head import bad_request
from epoch.http.memory import PARSED, SMALL
from epoch.http.message import BodyCut, BodySink, Flow
from epoch.metrics import metrics

if TYPE_CHECKING:
    from typing_extensions import Buffer

UNLIMITED: Final = 1 << 62
SMALL_BODY: Final = 256 * 1024
SMALL_BODY_SECONDS: Final = 0.5
"""An answer does not overtake a body that is this small, if it comes in this time: containerd 1.6
hangs for ever where a refusal comes while it hands over a manifest. Servers in Go wait likewise."""

RATE_SPAN: Final = 30.0
"""Seconds over which the minimum rate is averaged."""


class Wire(Protocol):
    """What a body asks of its connection."""

    def pause_reading(self) -> None:
        """Stop receiving; not from inside get_buffer."""

    def resume_reading(self) -> None:
        """Receive on."""

    def send_continue(self) -> None:
        """Send `100 Continue`, if the client waits for it."""

    async def reserve(self, size: int) -> None:
        """See `message.Request.reserve`."""

    def unread(self) -> int:
        """Bytes that have come and lie in the kernel."""


class RequestBody:
    """A body being received. It is the `Flow` of its own sink, and the `Body` of its request."""

    def __init__(self, wire: Wire, length: int | None, max_length: int) -> None:
        self.length = length
        self.bytes_received = 0
        self.complete = length == 0
        """Whether its last byte has come, and nothing failed on the way there. Only then is what
        comes after it the next request; else the connection ends with the answer."""
        self.reading = False
        """Whether a sink takes the bytes now."""
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._left = UNLIMITED if length is None else length
        self._decoder = ChunkedDecoder(max_length) if length is None else None
        self._sink: BodySink | None = None
        self._done: asyncio.Future[None] | None = None
        self._failure: Exception | None = None  # came before anybody read
        self._prefix = b""  # what came with the head and is not yet in the sink
        self._paused = False
        # Progress, for the deadlines: nothing counts while we do not read.
        self._paused_since = 0.0
        self._idle_since = 0.0
        self._rate_since = 0.0
        self._rate_bytes = 0

    # -- Body: the handler's side

    async def read(self, limit: int) -> bytes:
        """See `message.Body.read`."""
        if self.length is not None and self.length > limit:
            raise _too_large(limit)
        size = limit if self.length is None else self.length
        if size > SMALL:
            await self._wire.reserve(size * PARSED)
        collector = _Collector(limit)
        try:
            await self.into(lambda _: collector)
            return bytes(collector.data)
        finally:
            collector.data.clear()  # the traceback of an error would keep it until it is collected

    async def outwait(self) -> None:
        """Receive a small body that nobody has read, and drop it; see `SMALL_BODY`."""
        if self._done is not None or self.complete or (self.length or UNLIMITED) > SMALL_BODY:
            return
        late = BodyCut(Code.BAD_REQUEST, "the body did not come in time")
        timer = self._loop.call_later(SMALL_BODY_SECONDS, self.fail, late)
        try:
            await self.into(lambda _: _Collector(SMALL_BODY, keep=False))
        except BodyCut:
            pass
        finally:
            timer.cancel()

    @property
    def awaited(self) -> bool:
        """Whether it is the client that is waited for."""
        return self.reading and not self._paused

    async def into(self, make_sink: Callable[[Flow], BodySink]) -> int:
        """See `message.Body.into`."""
        if self._done is not None:
            raise RuntimeError("a request body is read at most once")
        if self._failure is not None:
            raise self._failure
        self._done = self._loop.create_future()
        self._sink = make_sink(self)
        if not self.complete:
            self.reading = True
            self._idle_since = self._rate_since = self._loop.time()
            self._wire.send_continue()
            if not self._paused:
                self._pump()
            try:
                await self._done
            finally:
                self.reading = False
                self._sink = None
        return self.bytes_received

    # -- Flow: the sink's side

    def pause(self) -> None:
        """See `message.Flow.pause`."""
        if not self._paused:
            self._paused = True
            self._paused_since = self._loop.time()
            if self.reading:
                self._wire.pause_reading()

    def resume(self) -> None:
        """See `message.Flow.resume`."""
        if self._paused:
            self._paused = False
            self._idle_since = now = self._loop.time()
            # Do not reset the window: pauses are frequent, and a trickling client must not benefit.
            self._rate_since += now - self._paused_since
            if self.reading and self._prefix:
                self._loop.call_soon(self._pump)
            elif self.reading:
                self._wire.resume_reading()

    def unread(self) -> int:
        """See `message.Flow.unread`."""
        return len(self._prefix) + self._wire.unread()

    # -- the connection's side

    def get_buffer(self) -> Buffer | None:
        """Where the next bytes from the kernel go; None where the sink has failed."""
        assert self._sink is not None
        try:
            return self._sink.get_buffer(self._left)
        except Exception as error:  # noqa: BLE001 - the handler's to see; the loop would drop it
            self.reading = False
            self._loop.call_soon(self.fail, error)  # it pauses, which must not happen in here
            return None

    def received(self, count: int) -> bytes:
        """`count` raw bytes lie in the buffer last given out. Returns what follows the body."""
        assert self._sink is not None
        self._idle_since = self._loop.time()
        rest = b""
        try:
            if self._decoder is not None:
                count, rest = self._decode(count)
                ended = self._decoder.done
            else:
                self._left -= count
                ended = self._left == 0
            self.bytes_received += count
            metrics.bytes_received += count
            self._rate_bytes += count
            if count:
                self._sink.received(count)
        except Exception as error:  # noqa: BLE001 - whatever the sink raises is the handler's to see
            self.fail(error)
            return b""
        # Not before the sink has taken it: a body that it refuses is not complete.
        if ended and self.reading:
            self.complete = True
            self._finish(None)
        return rest if self.complete else b""

    def prepend(self, data: bytes) -> bytes:
        """Take bytes that came with the head. Returns those that surely follow the body."""
        if self._decoder is None:
            taken = min(len(data), self._left)
            self._prefix = data[:taken]
            return data[taken:]
        self._prefix = data
        return b""

    def take_back(self) -> bytes:
        """What `prepend` took and no sink did: the beginning of the next request."""
        rest, self._prefix = self._prefix, b""
        return rest

    def fail(self, error: Exception) -> None:
        """End the body before its time."""
        self._finish(error)

    def end_of_stream(self) -> None:
        """The client has closed its side."""
        if not self.complete:
            announced = "its last chunk" if self.length is None else f"{self.length} bytes"
            self.fail(
                BodyCut(
                    Code.SIZE_INVALID,
                    f"the connection ended after {self.bytes_received} bytes of the body, "
                    f"before {announced}",
                )
            )

    def tick(self, now: float, idle_timeout: float, min_rate: float) -> None:
        """Hold the client to its deadlines; called about once a second."""
        if not self.reading or self._paused or self._sink is None:
            return
        idle = now - self._idle_since
        if idle > idle_timeout:
            self.fail(_timeout(f"no byte of the body has come for {idle_timeout:g} seconds"))
            return
        span = now - self._rate_since
        if span >= RATE_SPAN:
            if self._rate_bytes < min_rate * span:
                self.fail(_timeout(f"the body comes slower than {min_rate:g} bytes a second"))
                return
            self._rate_since, self._rate_bytes = now, 0
        if idle >= 1.0:
            try:
                self._sink.idle(idle)
            except Exception as error:  # noqa: BLE001 - the handler's to see
                self.fail(error)

    # -- inside

    def _decode(self, count: int) -> tuple[int, bytes]:
        assert self._decoder is not None
        assert self._sink is not None
        buffer = self._sink.get_buffer(self._left)  # idempotent: the one the bytes are in
        try:
            count, rest = self._decoder.feed(buffer, count)
        except OverflowError as error:
            raise RegistryError(Code.SIZE_INVALID, str(error), status=413) from None
        except ValueError as error:
            raise bad_request(f"malformed chunked body: {error}") from None
        return count, rest

    def _pump(self) -> None:
        """Hand the prefix to the sink, then let the kernel go on."""
        while self._prefix and self._sink is not None and not self._paused and not self.complete:
            try:
                taken = fill(self._sink.get_buffer(self._left), self._prefix)
            except Exception as error:  # noqa: BLE001 - the handler's to see
                self.fail(error)
                return
            self._prefix = self._prefix[taken:]
            rest = self.received(taken)
            if rest:
                self._prefix = rest + self._prefix
        if self.reading and not self._paused and not self.complete:
            self._wire.resume_reading()

    def _finish(self, error: Exception | None) -> None:
        self.reading = False
        if self._done is None:
            self._failure = error
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            # The rest will not be read by anybody: hold the client until the answer is out.
            self._wire.pause_reading()
            self._done.set_exception(error)


_WINDOW: Final = bytearray(65536)
"""Where small bodies land. Shared: it is filled and emptied within one callback."""


class _Collector:
    """The sink of a small body: a copy of it, up to a limit, unless it is only to be dropped."""

    def __init__(self, limit: int, *, keep: bool = True) -> None:
        self.data = bytearray()
        self._left = limit
        self._limit = limit
        self._keep = keep

    def get_buffer(self, limit: int) -> Buffer:
        return memoryview(_WINDOW)[:limit] if limit < len(_WINDOW) else _WINDOW

    def received(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _too_large(self._limit)
        if self._keep:
            self.data += memoryview(_WINDOW)[:count]

    def idle(self, seconds: float) -> None:
        """Holds nothing of note."""


def _too_large(limit: int) -> RegistryError:
    return RegistryError(
        Code.SIZE_INVALID, f"the body is larger than the {limit} bytes accepted here", status=413
    )


def _timeout(message: str) -> RegistryError:
    return BodyCut(Code.BAD_REQUEST, message, status=408)
