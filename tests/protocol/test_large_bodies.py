"""Bodies that are held whole: within their budget, and from clients that go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from epoch.http import memory, sending
from epoch.http.memory import SMALL, Memory
from epoch.http.message import Request, Response
from tests.protocol.serve import Blocks, Raw, Server, content, quick, serving, statuses
from tests.tools.running import eventually

MIB = 1 << 20
ANSWER = 12 * MIB
"""More than all kernel buffers on the way hold."""
BUDGET = 4 * ANSWER
LARGE = b"GET /manifest HTTP/1.1\r\nHost: a\r\n\r\n"
HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


def push(size: int, *fields: str) -> bytes:
    lines = [f"Content-Length: {size}", *fields]
    return "\r\n".join(["PUT /echo HTTP/1.1", "Host: a", *lines, "", ""]).encode()


@asynccontextmanager
async def narrow(budget: int = BUDGET, **timeouts: float) -> AsyncIterator[Server]:
    """A server with that budget, whose `/manifest` has a quarter of `BUDGET`."""

    async def manifest(request: Request) -> Response:
        await request.reserve(ANSWER)
        tag = request.headers.get("x-tag", "one")
        return Response(200, [("ETag", f'"{tag}"')], body=content(ANSWER))

    async with serving(timeouts=quick(**timeouts), manifest=manifest) as server:
        server.service.memory = Memory(budget)
        yield server
        await server.until_quiet()
        assert (server.service.memory.lent, server.service.memory.waiting) == (0, 0)


async def test_readers_of_one_answer_share_it() -> None:
    async with narrow() as server, AsyncExitStack() as stack:
        for _ in range(20):
            raw = await stack.enter_async_context(Raw(server.port, receive_buffer=4096))
            await raw.send(LARGE)
        await eventually(lambda: len(server.service.tasks) == 20)
        await eventually(lambda: server.service.memory.lent == ANSWER)
        async with server.client() as client:
            assert (await client.request("GET", "/manifest")).body == content(ANSWER)


async def test_too_many_answers_wait_and_are_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are small are not touched by it."""
    monkeypatch.setattr(memory, "WAIT_SECONDS", 0.3)
    async with narrow() as server, AsyncExitStack() as stack:
        for at in range(6):
            raw = await stack.enter_async_context(Raw(server.port, receive_buffer=4096))
            await raw.send(LARGE.replace(b"Host: a", b"Host: a\r\nX-Tag: %d" % at))
        await eventually(lambda: server.service.memory.waiting == 2)
        async with server.client() as client:
            assert (await client.request("GET", "/hello")).status == 200
            assert (await client.request("PUT", "/echo", bytes(SMALL))).status == 200
            refused = await client.request("GET", "/manifest")
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert (await client.request("GET", "/hello")).status == 200
        assert server.service.memory.lent == BUDGET


async def test_a_list_that_finds_no_memory_is_refused() -> None:
    async def many(request: Request) -> Response:
        return Response(200, body=bytes(3 * ANSWER))

    async with narrow() as server, AsyncExitStack() as stack:
        server.handlers["list"] = many
        raw = await stack.enter_async_context(Raw(server.port, receive_buffer=4096))
        get = b"GET /list HTTP/1.1\r\nHost: a\r\n\r\n"
        await raw.send(get)
        await eventually(lambda: server.service.memory.lent == 3 * ANSWER)
        async with server.client() as client:
            assert (await client.request("GET", "/list")).status == 503
            assert (await client.request("GET", "/hello")).status == 200


@pytest.mark.parametrize("sent", [0, 1000])
async def test_pushes_that_stand_still_make_way(
    sent: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While others wait. Each counts three times its size."""
    monkeypatch.setattr(memory, "EARN_SECONDS", 0.3)
    async with narrow(4 * MIB) as server, AsyncExitStack() as stack:
        silent = []
        for _ in range(6):
            raw = await stack.enter_async_context(Raw(server.port))
            await raw.send(push(MIB) + bytes(sent))
            silent.append(raw)
        await eventually(lambda: server.service.memory.waiting == 5)
        async with server.client() as client:
            answer = await client.request("PUT", "/echo", bytes(MIB))
            assert (answer.status, len(answer.body)) == (200, MIB)
        assert statuses(await silent[0].receive_all()) == [408]
    assert "a slow client is cut, since others wait for memory" in caplog.text


async def test_a_slow_push_that_nobody_waits_for_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "EARN_SECONDS", 0.1)
    async with narrow() as server, Raw(server.port) as raw:
        await raw.send(push(100_000))
        for _ in range(10):
            await asyncio.sleep(0.1)
            await raw.send(bytes(10_000))
        assert (await raw.receive()).startswith(b"HTTP/1.1 200")


async def test_a_body_that_waits_for_memory_is_not_late() -> None:
    async with narrow(body_idle=0.1, min_rate=1000.0) as server:
        holder = _Nobody()
        hold = server.service.memory.lend(BUDGET, holder)
        assert hold is not None
        async with server.client() as client:
            asking = asyncio.create_task(client.request("PUT", "/echo", bytes(MIB)))
            await asyncio.sleep(0.5)
            assert not asking.done()
            server.service.memory.leave(hold, holder)
            assert (await asking).status == 200


class _Nobody:
    moved = None

    def give_up(self) -> None:
        raise AssertionError


async def test_a_reader_that_drips_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes something all the time, and so little that it would hold its answer for days."""
    monkeypatch.setattr(sending, "RATE_SPAN", 0.5)
    async with serving(timeouts=quick(min_rate=200_000.0)) as server:

        async def large(request: Request) -> Response:
            server.streams.append(Blocks(64 * MIB))
            return Response(200, body=server.streams[-1])

        server.handlers["large"] = large
        async with Raw(server.port, receive_buffer=4096) as raw:
            await raw.send(LARGE.replace(b"manifest", b"large"))
            await eventually(lambda: bool(server.service.tasks))
            loop = asyncio.get_running_loop()
            began = loop.time()
            while server.service.connections:
                await raw.receive(512)
                await asyncio.sleep(0.02)
            assert 0.4 < loop.time() - began < 10
        await eventually(lambda: bool(server.lines))
        assert server.lines[0][:2] == ("/large", 499)


async def test_a_reader_above_the_minimum_rate_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "RATE_SPAN", 0.3)
    async with serving(timeouts=quick(min_rate=10_000.0)) as server, Raw(server.port, 4096) as raw:
        await raw.send(b"GET /stream/2000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 1.5:
            assert await raw.receive(4096)
            await asyncio.sleep(0.01)
        assert server.service.connections
        raw.reset()
