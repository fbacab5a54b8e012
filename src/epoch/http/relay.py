"""From the store's socket to the client's: the way of a body that nobody here has to look at.

What is received into memory that all relays share goes out from there within the same callback;
only what a client does not take at once is copied, and waits for it. Not splice(2): its pipes are
rationed for each user (pipe(7), `pipe-user-pages-soft`), and beyond the ration too small to be of
use, while copying through memory that stays in the CPU's cache costs little more.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from typing import Final

from epoch.http.message import ClientGone, StoreSocket
from epoch.http.sendfile import unacknowledged
from epoch.metrics import metrics

SLICE: Final = 1024 * 1024
"""Bytes received at a time: half of it costs a tenth more, twice as much saves nothing."""

_SLICES: Final = 4
"""Before the others' turn. With many clients at once, one costs a quarter more."""

_SCRATCH: Final = memoryview(mmap.mmap(-1, SLICE))  # no memory before it is used

_LOOK_SECONDS: Final = 0.5
"""Between two looks at whether anything moves."""


async def relay(
    transport: asyncio.Transport, source: StoreSocket, count: int, stall: float
) -> None:
    """Send the next `count` bytes of `source` to a client, whose `transport` must have nothing
    queued.

    Raises `ClientGone` if that breaks, or if the client takes no byte for `stall` seconds, and
    OSError if the source ends early or gives no byte for `source.stall` seconds.
    """
    # Duplicates: uvloop refuses to watch a transport's own descriptor.
    own = transport.get_extra_info("socket").fileno()
    with (
        socket.socket(fileno=os.dup(source.descriptor)) as giver,
        socket.socket(fileno=os.dup(own)) as taker,
    ):
        giver.setblocking(False)
        taker.setblocking(False)
        await _Relay(giver, taker, count, source.stall, stall).run(transport)


class _Relay:
    """One relay: it waits for one of its two sockets at a time."""

    def __init__(
        self, giver: socket.socket, taker: socket.socket, count: int, give: float, take: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._giver = giver
        self._taker = taker
        self._give = give
        self._take = take
        self._left = count  # to be received
        self._held = memoryview(b"")  # received, and not yet taken
        self._ended = self._loop.create_future()
        self._error: Exception | None = None

    async def run(self, transport: asyncio.Transport) -> None:
        """Move everything."""
        self._loop.add_reader(self._giver, self._receive)
        seen, since = self._progress(), self._loop.time()
        try:
            while not self._ended.done():
                await asyncio.wait((self._ended,), timeout=min(_LOOK_SECONDS, self._limit() / 4))
                progress, now = self._progress(), self._loop.time()
                if progress != seen:
                    seen, since = progress, now
                elif now - since > self._limit():
                    self._end(self._stalled())
                if transport.is_closing():
                    self._end(ClientGone("the connection was lost"))
        finally:
            self._end()
        if self._error is not None:
            raise self._error

    def _end(self, error: Exception | None = None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
            self._error = error
            self._loop.remove_reader(self._giver)
            self._loop.remove_writer(self._taker)

    def _receive(self) -> None:
        for _ in range(_SLICES):
            if not self._pass_on():
                return

    def _pass_on(self) -> bool:
        """One slice; whether another can follow at once."""
        try:
            count = self._giver.recv_into(_SCRATCH, min(self._left, SLICE))
            if not count:
                raise ConnectionError(f"the store cut it short by {self._left} bytes")
        except BlockingIOError:
            return False
        except OSError as error:
            self._end(error)
            return False
        self._left -= count
        return self._send(_SCRATCH[:count]) and count == SLICE

    def _send_held(self) -> None:
        self._send(self._held)

    def _send(self, data: memoryview) -> bool:
        """Whether all of it went out, and more is to be received."""
        try:
            sent = self._taker.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end(ClientGone("the connection was lost"))
            return False
        metrics.bytes_sent += sent
        if sent < len(data):
            self._hold(data[sent:])
            return False
        if not self._left:
            self._end()
            return False
        if self._held:
            self._held = data[sent:]
            self._loop.remove_writer(self._taker)
            self._loop.add_reader(self._giver, self._receive)
        return True

    def _hold(self, rest: memoryview) -> None:
        if not self._held:
            rest = memoryview(bytes(rest))  # others are about to use the shared memory
            self._loop.remove_reader(self._giver)
            self._loop.add_writer(self._taker, self._send_held)
        self._held = rest

    # Progress

    def _progress(self) -> tuple[int, int, int]:
        # What a slow client takes out of the kernel's buffer is progress, too.
        held = unacknowledged(self._taker.fileno()) if self._held else 0
        return self._left, len(self._held), held

    def _limit(self) -> float:
        return self._take if self._held else self._give

    def _stalled(self) -> Exception:
        if self._held:
            return ClientGone("the client stopped reading")
        return TimeoutError(f"the store stalled {self._left} bytes before the end")
