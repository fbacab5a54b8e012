"""What an idle connection costs: bytes of resident memory of a server in a process of its own."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

import pytest

from tests.protocol.serve import Raw
from tests.tools.machine import connections

COUNT = 2000
WARM = 100
"""Connections after which all is allocated that is allocated once."""
SERVER = """
import asyncio, os, uvloop
from epoch.http.head import Limits
from epoch.http.listener import Service
from epoch.http.message import Response
from epoch.http.shared import Timeouts

async def handle(request):
    return Response(200)

async def main():
    service = Service(
        handle,
        limits=Limits(32768, 8192, 100),
        timeouts=Timeouts(60.0, 60.0, 60.0, 0.0),
        max_body=1 << 40,
        access_log=lambda *_: None,
    )
    print((await service.listen("127.0.0.1", 0))[1], flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""
GET = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
async def test_an_idle_connection_costs_little() -> None:
    count = connections(WARM + COUNT, least=500) - WARM
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE
    )
    clients: list[Raw] = []
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())

        async def use(count: int) -> int:
            for _ in range(count):
                clients.append(await Raw(port).__aenter__())
                await clients[-1].send(GET)
                assert (await clients[-1].receive()).startswith(b"HTTP/1.1 200")
            return _resident(process.pid)

        before = await use(WARM)
        each = (await use(count) - before) / count
        print(f"{each:.0f} bytes for each of {count} idle connections")
        assert each < 6000
    finally:
        for raw in clients:
            await raw.__aexit__()
        process.kill()
        await process.wait()
