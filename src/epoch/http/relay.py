"""From the store's socket to the client's: the way of a body that nobody here has to look at.

What lies in the store's socket is looked at in memory that all relays share (MSG_PEEK) and sent
from there; what the client's socket has taken is then dropped from the store's, without another
copy (MSG_TRUNC, tcp(7)). So a client that does not read costs no memory of this process: the bytes
stay with the kernel, and TCP slows the store down. Not splice(2): its pipes are rationed for each
user (pipe(7), `pipe-user-pages-soft`), and beyond the ration too small to be of use, while copying
through memory that stays in the CPU's cache costs little more.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Callable
from typing import Final

from epoch.http.message import ClientGone, StoreSocket

SLICE: Final = 1024 * 1024
"""Bytes at a time: half of it costs a tenth more, twice as much saves nothing."""

_SLICES: Final = 4
"""Slices per callback, before others get their turn. 1 costs a quarter more with many clients."""

_SCRATCH: Final = memoryview(mmap.mmap(-1, SLICE))  # no memory before it is used

_LOOK_SECONDS: Final = 0.5
"""Between two looks at whether the store gives anything."""


async def relay(
    transport: asyncio.Transport,
    source: StoreSocket,
    count: int,
    went_out: Callable[[int], None],
) -> None:
    """Send the next `count` bytes of `source` to a client, whose `transport` must have nothing
    queued. `went_out` is called with the size of each piece.

    Raises `ClientGone` if the connection breaks, and OSError if the source ends early or gives no
    byte for `source.stall` seconds. How long a client may take is the caller's business.
    """
    # Duplicates: uvloop refuses to watch a transport's own descriptor.
    own = transport.get_extra_info("socket").fileno()
    with (
        socket.socket(fileno=os.dup(source.descriptor)) as giver,
        socket.socket(fileno=os.dup(own)) as taker,
    ):
        giver.setblocking(False)
        taker.setblocking(False)
        await _Relay(giver, taker, count, went_out).run(source.stall)


class _Relay:
    """One relay: it waits for one of its two sockets at a time."""

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
        self._left = count
        self._went_out = went_out
        self._taker_is_full = False  # the taker is waited for, not the giver
        self._ended = self._loop.create_future()
        self._error: Exception | None = None

    async def run(self, stall: float) -> None:
        """Move everything."""
        self._loop.add_reader(self._giver, self._move)
        left, since = self._left, self._loop.time()
        try:
            while not self._ended.done():
                await asyncio.wait((self._ended,), timeout=min(_LOOK_SECONDS, stall / 4))
                now = self._loop.time()
                if self._left != left or self._taker_is_full:
                    left, since = self._left, now
                    continue
                if now - since > stall:
                    self._end(TimeoutError(f"the store stalled {left} bytes before the end"))
                elif not self._ended.done():
                    self._move()  # uvloop calls no reader of a socket that was reset
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

    def _move(self) -> None:
        for _ in range(_SLICES):
            if not self._move_slice():
                return

    def _move_slice(self) -> bool:
        """Move what is there, at most a slice; whether another can follow at once."""
        try:
            count = self._giver.recv_into(_SCRATCH, min(self._left, SLICE), socket.MSG_PEEK)
            if not count:
                raise ConnectionError(f"the store cut it short by {self._left} bytes")
        except BlockingIOError:
            self._wait_for_taker(False)
            return False
        except OSError as error:
            self._end(error)
            return False
        try:
            sent = self._taker.send(_SCRATCH[:count])
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end(ClientGone("the connection was lost"))
            return False
        if sent:
            self._drop(sent)
        return not (self._ended.done() or self._wait_for_taker(sent < count)) and count == SLICE

    def _drop(self, sent: int) -> None:
        """Take what was sent from the giver."""
        self._left -= sent
        self._went_out(sent)
        try:
            # It lies there, so it comes at once, and whole: else it would be sent twice.
            if self._giver.recv_into(_SCRATCH, sent, socket.MSG_TRUNC) != sent:
                raise ConnectionError("the store's socket lost what it had shown")
        except OSError as error:
            self._end(error)
        if not self._left:
            self._end()

    def _wait_for_taker(self, wanted: bool) -> bool:
        """Watch the taker if so `wanted`, else the giver; returns `wanted`."""
        if wanted != self._taker_is_full:
            self._taker_is_full = wanted
            if wanted:
                self._loop.remove_reader(self._giver)
                self._loop.add_writer(self._taker, self._move)
            else:
                self._loop.remove_writer(self._taker)
                self._loop.add_reader(self._giver, self._move)
        return wanted
