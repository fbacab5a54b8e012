"""sendfile(2) from a file to a client: no byte passes through this process.

uvloop has no `loop.sendfile`, and refuses to watch a transport's own descriptor; so a duplicate of
it is watched for writability.
"""

import asyncio
import contextlib
import fcntl
import os
import sys
import termios
from typing import Final

from epoch.http.message import ClientGone
from epoch.metrics import metrics

SLICE: Final = 4 * 1024 * 1024
"""Bytes per call, so that one fast client does not hold the loop."""


async def send_file(
    transport: asyncio.Transport, descriptor: int, offset: int, count: int, stall: float
) -> None:
    """Send `count` bytes of the file from `offset` on. `transport` must have nothing queued.

    Raises `ClientGone` if that breaks, or if the client takes no byte for `stall` seconds.
    """
    target = os.dup(transport.get_extra_info("socket").fileno())
    try:
        left = count
        while left:
            try:
                sent = os.sendfile(target, descriptor, offset, min(left, SLICE))
            except BlockingIOError:
                await _writable(target, stall)
                continue
            except OSError as error:
                raise ClientGone("the connection was lost") from error
            if sent == 0:
                raise ClientGone("the file is shorter than it was")
            offset += sent
            left -= sent
            metrics.bytes_sent += sent
            await asyncio.sleep(0)
    finally:
        os.close(target)


def unsent(transport: asyncio.Transport) -> int:
    """Bytes on their way to the client, in this process and in the kernel; 0 if none is in this
    process. As long as that changes, the client takes them."""
    queued: int = transport.get_write_buffer_size()
    return queued and queued + unacknowledged(transport.get_extra_info("socket").fileno())


def unacknowledged(descriptor: int) -> int:
    """Bytes of what was sent that the kernel still holds; 0 where it does not tell.

    It takes more only once a third of its buffer, up to some MiB, is free again: a slow client
    gets on for minutes before one notices at the other end.
    """
    try:
        answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))  # tcp(7): SIOCOUTQ
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


async def _writable(descriptor: int, stall: float) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    held = unacknowledged(descriptor)
    loop.add_writer(descriptor, ready.set)
    try:
        while not ready.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(stall):
                    await ready.wait()
            before, held = held, unacknowledged(descriptor)
            if held == before and not ready.is_set():
                raise ClientGone("the client stopped reading")
    finally:
        loop.remove_writer(descriptor)
