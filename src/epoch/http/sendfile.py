"""sendfile(2) from a file to a client: no byte passes through this process.

uvloop has no `loop.sendfile`, and refuses to watch a transport's own descriptor; so a duplicate of
it is watched for writability.
"""

import asyncio
import os
from typing import Final

from epoch.http.message import ClientGone

SLICE: Final = 4 * 1024 * 1024
"""Bytes per call, so that one fast client does not hold the loop."""


async def send_file(
    transport: asyncio.Transport, descriptor: int, offset: int, count: int, stall: float
) -> int:
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
            await asyncio.sleep(0)
    finally:
        os.close(target)
    return count


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _writable(descriptor: int, stall: float) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(descriptor, _set, ready)
    try:
        async with asyncio.timeout(stall):
            await ready
    except TimeoutError:
        raise ClientGone("the client stopped reading") from None
    finally:
        loop.remove_writer(descriptor)
