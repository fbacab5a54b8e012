"""The orderly end: idle connections are closed, running requests end, late ones are cut."""

from __future__ import annotations

import asyncio
import time

import pytest

from epoch.http.message import Request, Response
from tests.protocol.serve import Raw, content, serving, statuses
from tests.tools.running import eventually

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_idle_connections_are_closed_at_once() -> None:
    async with serving(shut_down=True) as server:
        async with Raw(server.port) as used, Raw(server.port) as unused, Raw(server.port) as half:
            await used.send(GET)
            await used.receive()
            await half.send(GET[:10])
            await eventually(lambda: len(server.service.connections) == 3)
            start = time.monotonic()
            await server.service.close(10)
            assert time.monotonic() - start < 1
            for raw in (used, unused, half):
                assert await raw.receive_all() == b""
        with pytest.raises(ConnectionRefusedError):
            async with Raw(server.port):
                pass


async def test_running_requests_end_and_close() -> None:
    async with serving(shut_down=True) as server, Raw(server.port) as raw:
        await raw.send(WAIT + GET)
        await eventually(lambda: bool(server.service.tasks))
        closing = asyncio.create_task(server.service.close(10))
        await asyncio.sleep(0.1)
        assert not closing.done()
        server.gate.set()
        answer = await raw.receive_all()
        await closing
        assert statuses(answer) == [200]  # the one behind was not begun
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"waited")


async def test_a_body_under_way_is_taken_to_its_end() -> None:
    async with serving(shut_down=True) as server, server.client() as client:
        await client.send(b"PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        await eventually(lambda: bool(server.sinks) and server.sinks[0].digest.length == 5)
        closing = asyncio.create_task(server.service.close(10))
        await asyncio.sleep(0.05)
        await client.send(b"world")
        answer = await client.answer()
        await closing
        assert (answer.status, answer.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("grace", [0, 0.2])
async def test_what_does_not_end_in_time_is_cut(grace: float) -> None:
    ended: list[BaseException] = []

    async def forever(request: Request) -> Response:
        try:
            await request.body.read(100)
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(error)
            raise
        return Response(200)

    wires = [
        b"GET /forever HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT /forever HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
        b"PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(50_000),
        b"GET /stream/100000000 HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    async with serving(shut_down=True, forever=forever) as server:
        clients = [Raw(server.port) for _ in wires]
        for raw, wire in zip(clients, wires, strict=True):
            await raw.__aenter__()
            await raw.send(wire)
        await eventually(lambda: len(server.service.tasks) == len(wires))
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await server.service.close(grace)
        assert grace <= time.monotonic() - start + 0.01 < grace + 1
        for raw in clients:
            assert b"waited" not in await raw.receive_all()
            await raw.__aexit__()
        assert [type(error) for error in ended] == [asyncio.CancelledError] * 2
        assert sorted(line[1] for line in server.lines) == [499] * 4


async def test_an_answer_that_is_going_out_is_not_cut() -> None:
    async def big(request: Request) -> Response:
        return Response(200, body=content(200_000))

    async with serving(shut_down=True, big=big) as server, Raw(server.port) as raw:
        head = b"PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n"
        await raw.send(head + bytes(100_000))  # refused in the middle of its body: it lingers
        await eventually(lambda: bool(server.lines))
        await asyncio.sleep(0)
        closing = asyncio.create_task(server.service.close(10))
        await asyncio.sleep(0)
        assert (await raw.receive_all()).endswith(content(200_000))
        await closing


async def test_closing_twice_is_no_error() -> None:
    async with serving(shut_down=True) as server:
        await server.service.close(1)
        await server.service.close(1)
