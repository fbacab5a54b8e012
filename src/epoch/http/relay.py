"""From the store's socket to the client's: the way of a body that nobody here has to look at.

What is received into memory that all relays share goes out from there within the same callback;
only what a client does not take at once is copied, and waits for it. All relays together hold
little in that way (`HELD_MOST`). Beyond it, what lies in a store's socket is only looked at
(MSG_PEEK), and dropped from there once the client has taken it (MSG_TRUNC, tcp(7)): it stays with
the kernel, and TCP slows the store down. That costs a quarter more.

Not splice(2): its pipes are rationed for each user (pipe(7), `pipe-user-pages-soft`), and beyond
the ration too small to be of use, while copying through memory that stays in the CPU's cache costs
little more.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Final

from epoch.http.message import ClientGone

SLICE: Final = 1024 * 1024
"""Bytes at a time: half of it costs a tenth more, twice as much saves nothing."""

HELD_MOST: Final = 16 * SLICE
"""Bytes above which no relay receives what its client may not take."""

_SLICES: Final = 4
"""Slices per callback, before others get their turn. 1 costs a quarter more with many clients."""

_SCRATCH: Final = memoryview(mmap.mmap(-1, SLICE))  # no memory before it is used

_LOOK_SECONDS: Final = 0.5
"""Between two looks at whether the store gives anything."""


async def relay(
    transport: asyncio.Transport,
    descriptor: int,
    count: int,
    stall: float,
    went_out: Callable[[int], None],
) -> None:
    """Send the next `count` bytes of the non-blocking socket `descriptor` to a client, whose
    `transport` must have nothing queued. `went_out` is called with the size of each piece.

    Raises `ClientGone` if the connection breaks, and OSError if the source ends early or gives no
    byte for `stall` seconds. How long a client may take is the caller's business.
    """
    # Duplicates: uvloop refuses to watch a transport's own descriptor.
    own = transport.get_extra_info("socket").fileno()
    with (
        socket.socket(fileno=os.dup(descriptor)) as giver,
        socket.socket(fileno=os.dup(own)) as taker,
    ):
        giver.setblocking(False)
        taker.setblocking(False)
        await _Relay(giver, taker, count, went_out).run(stall)


async def pieces(
    descriptor: int, count: int, size: int, stall: float
) -> AsyncGenerator[bytes, None]:
    """The next `count` bytes of a socket, at most `size` at a time, for a client whose connection
    is encrypted. Nothing is received before it is asked for. Raises OSError as `relay` does."""
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=os.dup(descriptor)) as giver:
        giver.setblocking(False)
        since = loop.time()
        while count:
            try:
                data = giver.recv(min(count, size))
            except BlockingIOError:
                if loop.time() - since > stall:
                    raise TimeoutError(f"the store stalled {count} bytes before the end") from None
                await _readable(giver, min(_LOOK_SECONDS, stall / 4))
                continue
            if not data:
                raise ConnectionError(f"the store cut it short by {count} bytes")
            count -= len(data)
            yield data
            since = loop.time()


async def _readable(giver: socket.socket, seconds: float) -> None:
    """Wait until there is something to be received, or for so long: uvloop does not wake the
    reader of a socket that was reset."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(giver, ready.set)
    try:
        async with asyncio.timeout(seconds):
            await ready.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(giver)


class _Relay:
    """One relay: it waits for one of its two sockets at a time."""

    held_by_all = 0
    """Bytes that were received, and not yet taken by their clients."""

    def __init__(
        self,
        giver: socket.socket,
        taker: socket.socket,
        count: int,
        went_out: Callable[[int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._giver = giver
        self._taker = taker
        self._left = count  # to be received
        self._held = memoryview(b"")
        self._went_out = went_out
        self._taker_is_full = False  # the taker is waited for, not the giver
        self._ended = self._loop.create_future()
        self._error: Exception | None = None

    async def run(self, stall: float) -> None:
        """Move everything."""
        self._loop.add_reader(self._giver, self._receive)
        left, since = self._left, self._loop.time()
        try:
            while not self._ended.done():
                await asyncio.wait((self._ended,), timeout=min(_LOOK_SECONDS, stall / 4))
                now = self._loop.time()
                if self._left != left or self._taker_is_full:
                    left, since = self._left, now
                elif now - since > stall:
                    self._end(TimeoutError(f"the store stalled {left} bytes before the end"))
                elif not self._ended.done():
                    self._receive()  # uvloop calls no reader of a socket that was reset
        finally:
            self._end()
            self._hold(memoryview(b""))
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
        peek = _Relay.held_by_all >= HELD_MOST
        try:
            flags = socket.MSG_PEEK if peek else 0
            count = self._giver.recv_into(_SCRATCH, min(self._left, SLICE), flags)
            if not count:
                raise ConnectionError(f"the store cut it short by {self._left} bytes")
            sent = self._send(_SCRATCH[:count])
            if peek and sent and self._giver.recv_into(_SCRATCH, sent, socket.MSG_TRUNC) != sent:
                raise ConnectionError("the store's socket lost what it had shown")
        except BlockingIOError:
            self._wait_for_taker(False)
            return False
        except (OSError, ClientGone) as error:
            self._end(error)
            return False
        self._left -= sent if peek else count
        if not peek and sent < count:
            # Copied: others are about to use the shared memory.
            self._hold(memoryview(bytes(_SCRATCH[sent:count])))
        self._wait_for_taker(sent < count)
        return self._goes_on() and sent == count == SLICE

    def _pass_on_held(self) -> None:
        """The taker has room again."""
        if self._held:
            try:
                self._hold(self._held[self._send(self._held) :])
            except ClientGone as error:
                self._end(error)
                return
        if self._goes_on() and not self._held:
            self._wait_for_taker(False)
            self._receive()

    def _goes_on(self) -> bool:
        """Whether there is more to be moved."""
        if not self._left and not self._held:
            self._end()
        return not self._ended.done()

    def _send(self, data: memoryview) -> int:
        """How much of it the taker took."""
        try:
            sent = self._taker.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone("the connection was lost") from error
        self._went_out(sent)
        return sent

    def _hold(self, rest: memoryview) -> None:
        _Relay.held_by_all += len(rest) - len(self._held)
        self._held = rest

    def _wait_for_taker(self, wanted: bool) -> None:
        """Watch the taker if so `wanted`, else the giver."""
        if wanted != self._taker_is_full:
            self._taker_is_full = wanted
            if wanted:
                self._loop.remove_reader(self._giver)
                self._loop.add_writer(self._taker, self._pass_on_held)
            else:
                self._loop.remove_writer(self._taker)
                self._loop.add_reader(self._giver, self._receive)
