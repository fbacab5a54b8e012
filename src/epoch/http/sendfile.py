"""sendfile(2) from a file to a client: no byte passes through this process.

uvloop has no `loop.sendfile`, and refuses to watch a transport's own descriptor; so a duplicate of
it is watched for writability.
"""

import asyncio
import errno
import fcntl
import os
import sys
import termios
from collections.abc import Callable
from typing import Final

from epoch.http.message import ClientGone

SLICE: Final = 4 * 1024 * 1024
"""Bytes per call, so that one fast client does not hold the loop."""

_OF_A_SOCKET: Final = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
    }
)
"""How a connection ends (tcp(7), ip(7)). All else is the file's."""


async def send_file(
    transport: asyncio.Transport,
    descriptor: int,
    offset: int,
    count: int,
    went_out: Callable[[int], None],
) -> None:
    """Send `count` bytes of the file from `offset` on. `transport` must have nothing queued.

    `went_out` is called with the size of each piece. Raises `ClientGone` if the connection breaks,
    and OSError if the file cannot be read.
    """
    target = os.dup(transport.get_extra_info("socket").fileno())
    try:
        end = offset + count
        while offset < end:
            try:
                sent = os.sendfile(target, descriptor, offset, min(end - offset, SLICE))
            except BlockingIOError:
                await _writable(target)
                continue
            except OSError as error:
                # ETIMEDOUT, for one, may come from a network file system as well.
                os.pread(descriptor, 1, offset)
                if error.errno in _OF_A_SOCKET:
                    raise ClientGone("the connection was lost") from error
                raise
            if sent == 0:
                raise OSError("the file is shorter than it was")
            offset += sent
            went_out(sent)
            await asyncio.sleep(0)
    finally:
        os.close(target)


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


def unread(transport: asyncio.Transport) -> int:
    """Bytes that have come from the client and lie in the kernel; 0 where it does not tell."""
    try:
        descriptor = transport.get_extra_info("socket").fileno()
        answer = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))  # tcp(7): SIOCINQ
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)
