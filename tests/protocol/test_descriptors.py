"""A server whose descriptors are used up by idle connections serves those that ask."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from epoch.http.admission import IDLE_SECONDS, Admission
from epoch.http.message import Request, Response
from tests.protocol.serve import Raw, Server, serving, statuses
from tests.tools.client import Client, digest_of, get_blob, put_blob
from tests.tools.running import eventually
from tests.tools.server import Server as Process

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
DATA = random.Random(14).randbytes(6 << 20)


def _cpu(pid: int) -> float:
    """Seconds of user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_with_64_descriptors_and_300_idle_connections(tmp_path: Path) -> None:
    limited = ("prlimit", "--nofile=64:64", "--")
    process = await asyncio.to_thread(Process, tmp_path / "store", before=limited)
    try:
        async with AsyncExitStack() as idle, Client(process.port) as kept:
            assert (await kept.request("GET", "/healthz")).status == 200
            for _ in range(300):
                await idle.enter_async_context(Raw(process.port))
            cpu, began = _cpu(process.process.pid), time.monotonic()
            await asyncio.sleep(2 * IDLE_SECONDS)
            for _ in range(3):
                assert (await kept.request("GET", "/healthz")).status == 200
                assert (await put_blob(process.port, DATA)).status == 201
                assert (await get_blob(process.port, digest_of(DATA))).digest == digest_of(DATA)
            await asyncio.sleep(1.0)
            used = (_cpu(process.process.pid) - cpu) / (time.monotonic() - began)
            assert used < 0.2, used
        answers = await asyncio.gather(*(get_blob(process.port, digest_of(DATA)) for _ in range(4)))
        assert [answer.status for answer in answers] == [200] * 4
        text = await asyncio.to_thread(process.log)
        assert text.count("connections are refused: raise the limit of open files") == 1
        assert "status=503" not in text
        await asyncio.to_thread(process.stop)
    finally:
        process.kill()


@asynccontextmanager
async def few(most: int) -> AsyncIterator[Server]:
    """A server that takes `most` connections."""
    async with serving() as server:
        server.service.admission = Admission(most)
        yield server


async def test_nobody_waits_for_what_idle_connections_hold() -> None:
    """The longest idle goes first, and those that never asked before those that did."""
    async with few(13) as server, AsyncExitStack() as stack:
        kept = [await stack.enter_async_context(Raw(server.port)) for _ in range(2)]
        for raw in kept:
            await raw.send(GET)
            assert statuses(await raw.receive()) == [200]
        idle = [await stack.enter_async_context(Raw(server.port)) for _ in range(7)]
        await eventually(lambda: len(server.service.connections) == 9)
        await asyncio.sleep(IDLE_SECONDS + 0.1)
        busy = [await stack.enter_async_context(Raw(server.port)) for _ in range(2)]
        for raw, left in zip(busy, (10, 7), strict=True):  # each counts for four
            await raw.send(GET.replace(b"hello", b"wait"))
            await eventually(lambda: len(server.service.connections) == left)  # noqa: B023
        assert [await raw.receive() for raw in idle[:4]] == [b""] * 4
        for raw in kept:
            await raw.send(GET)
            assert statuses(await raw.receive()) == [200]
        server.gate.set()
        for raw in busy:
            assert statuses(await raw.receive()) == [200]


@pytest.mark.parametrize("early", [True, False])
async def test_where_all_are_busy_who_comes_is_refused(
    early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that has sent its request by then sees why. The log says it once."""
    async with few(8) as server, AsyncExitStack() as stack:
        for _ in range(2):
            raw = await stack.enter_async_context(Raw(server.port))
            await raw.send(GET.replace(b"hello", b"wait"))
        await eventually(lambda: len(server.service.tasks) == 2)
        for _ in range(3):
            async with Raw(server.port) as refused:
                if early:
                    await refused.send(GET)
                answer = await refused.receive_all()
                assert statuses(answer) == [503]
                assert b"\r\nRetry-After: 1\r\n" in answer
        server.gate.set()
        await eventually(lambda: not server.service.tasks)
        async with Raw(server.port) as raw:
            await raw.send(GET)
            assert statuses(await raw.receive()) == [200]
    assert caplog.text.count("connections are refused") == 1


async def test_a_request_that_has_begun_to_come_is_not_idle() -> None:
    async def hello(request: Request) -> Response:
        return Response(200)

    async with few(5) as server, AsyncExitStack() as stack:
        slow = await stack.enter_async_context(Raw(server.port))
        await slow.send(GET)
        assert statuses(await slow.receive()) == [200]
        await asyncio.sleep(IDLE_SECONDS + 0.1)
        await slow.send(GET[:10])
        await asyncio.sleep(0.05)
        busy = await stack.enter_async_context(Raw(server.port))
        await busy.send(GET.replace(b"hello", b"wait"))
        await eventually(lambda: len(server.service.tasks) == 1)
        await slow.send(GET[10:])
        assert statuses(await slow.receive()) == [200]
        server.gate.set()
        assert statuses(await busy.receive()) == [200]
