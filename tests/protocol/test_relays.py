"""Responses that go from the store's socket to the client's: whole, or cut where anyone can see."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from epoch.http import relay
from epoch.http.message import Request, Response
from epoch.http.relay import SLICE
from epoch.metrics import metrics
from epoch.store.base import OpenSocket
from tests.protocol.serve import Raw, Server, content, quick, serving, statuses
from tests.tools.running import eventually

MIB = 1 << 20
LARGE = 64 * MIB
"""More than all kernel buffers on the way hold."""
GET = b"GET /pull HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Relayed:
    """A `BodyStream` that comes over a real connection, whose other end is `store`."""

    def __init__(self, length: int, first: bytes = b"", stall: float = 60.0) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.store = socket.create_connection(listener.getsockname())
            self._own, _ = listener.accept()
        self.store.setblocking(False)
        self._own.setblocking(False)
        self.length = length
        self.offset = 0
        self.closed = 0
        self._socket = OpenSocket(first, self._own.fileno(), stall)

    def fileno(self) -> None:
        return None

    def take_socket(self) -> OpenSocket:
        return self._socket

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("the socket is there")

    async def resume(self, sent: int, error: Exception) -> None:
        raise error

    async def aclose(self) -> None:
        self.closed += 1
        self._own.close()

    async def give(self, data: bytes) -> None:
        """What the store sends; it may be cut while it does."""
        with suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(self.store, data)

    def left_in_it(self) -> int:
        """Bytes that nobody has received."""
        return len(self._own.recv(MIB, socket.MSG_PEEK))


def _sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    before = _sockets()
    yield
    await eventually(lambda: _sockets() <= before)
    assert relay._Relay.held_by_all == 0


@pytest.fixture(autouse=True, params=["holds", "peeks"])
def _mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test once more as if other relays held all that may be held."""
    if request.param == "peeks":
        monkeypatch.setattr(relay, "HELD_MOST", 0)


@asynccontextmanager
async def relaying(*streams: Relayed, body_idle: float = 60.0) -> AsyncIterator[Server]:
    """A server whose `/pull` answers with each of the streams in turn."""
    left = iter(streams)

    async def pull(request: Request) -> Response:
        return Response(200, body=next(left))

    try:
        async with serving(timeouts=quick(body_idle=body_idle), pull=pull) as server:
            yield server
    finally:
        for stream in streams:
            stream.store.close()
    assert [stream.closed for stream in streams] == [1] * len(streams)


@pytest.mark.parametrize("first", [0, 1, 300_000])
@pytest.mark.parametrize("rest", [0, 1, SLICE, SLICE + 1, 10 * MIB])
async def test_a_relayed_body_comes_whole(first: int, rest: int) -> None:
    data = content(first + rest)
    streams = [Relayed(len(data), data[:first]) for _ in range(2)]
    before = metrics.bytes_sent
    async with relaying(*streams) as server, server.client() as client:
        for stream in streams:
            _, answer = await asyncio.gather(
                stream.give(data[first:]), client.request("GET", "/pull")
            )
            assert answer.body == data
        assert (await client.request("GET", "/hello")).status == 200
        assert [line[3] for line in server.lines] == [len(data), len(data), 6]
    assert metrics.bytes_sent - before == 2 * len(data) + 6


async def test_nothing_behind_the_body_is_received() -> None:
    stream = Relayed(1000, b"a" * 400)
    async with relaying(stream) as server, Raw(server.port) as raw:
        await stream.give(b"b" * 700)
        await eventually(lambda: stream.left_in_it() == 700)
        await raw.send(GET)
        received = b""
        while not received.endswith(b"a" * 400 + b"b" * 600):
            received += await raw.receive()
        raw.reset()


async def test_pipelined_relays() -> None:
    data = content(500_000)
    streams = [Relayed(len(data)) for _ in range(10)]
    async with relaying(*streams) as server, Raw(server.port) as raw:
        hello = LAST.replace(b"Connection: close\r\n", b"")
        await raw.send((hello + GET) * 10 + LAST)
        feeding = asyncio.gather(*(stream.give(data) for stream in streams))
        answer = await raw.receive_all()
        await feeding
        assert statuses(answer) == [200] * 21
        assert answer.count(data) == 10


async def test_many_relays_do_not_mix() -> None:
    """They share memory: each has content of its own, and some clients take it slowly."""
    bodies = [random.Random(number).randbytes(3 * MIB + number) for number in range(24)]
    streams = {f"/own/{number}": Relayed(len(body)) for number, body in enumerate(bodies)}

    async def own(request: Request) -> Response:
        return Response(200, body=streams[request.path])

    async def pull(server: Server, number: int) -> bytes:
        slow = number % 3 == 0
        async with Raw(server.port, receive_buffer=32768 if slow else None) as raw:
            await raw.send(GET.replace(b"/pull", f"/own/{number}".encode()))
            received = bytearray()
            while not received.endswith(bodies[number][-64:]):
                received += await raw.receive(16384 if slow else 262144)
        return bytes(received.partition(b"\r\n\r\n")[2])

    async with serving(own=own) as server:
        feeding = [
            asyncio.ensure_future(stream.give(body))
            for stream, body in zip(streams.values(), bodies, strict=True)
        ]
        received = await asyncio.gather(*(pull(server, number) for number in range(len(bodies))))
        await asyncio.gather(*feeding)
        assert received == bodies
    for stream in streams.values():
        stream.store.close()


@pytest.mark.parametrize("given", [0, 100_000, 10 * MIB])
async def test_a_store_that_closes_early_cuts_the_response(
    given: int, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Relayed(LARGE)
    async with relaying(stream) as server, Raw(server.port) as raw:
        await raw.send(GET + LAST)

        async def break_off() -> None:
            await stream.give(content(given))
            stream.store.close()

        _, answer = await asyncio.gather(break_off(), raw.receive_all())
        assert len(answer.partition(b"\r\n\r\n")[2]) <= given
        assert b"hello " not in answer[-1000:]
        await server.until_quiet()
        assert len(server.lines) == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert f"short by {LARGE - given} bytes" in caplog.text


async def test_a_store_that_stalls_cuts_the_response(caplog: pytest.LogCaptureFixture) -> None:
    stream = Relayed(LARGE, stall=0.3)
    async with relaying(stream) as server, Raw(server.port) as raw:
        await raw.send(GET)
        await stream.give(content(MIB))
        answer = await raw.receive_all()
        assert answer.endswith(b"\r\n\r\n" + content(MIB))
        await server.until_quiet()
    assert "the store stalled" in caplog.text


async def test_a_store_that_is_slow_but_steady_is_not_cut() -> None:
    stream = Relayed(20_000, stall=0.3)
    async with relaying(stream) as server, server.client() as client:

        async def trickle() -> None:
            for _ in range(20):
                await asyncio.sleep(0.05)
                await stream.give(b"x" * 1000)

        _, answer = await asyncio.gather(trickle(), client.request("GET", "/pull"))
        assert answer.body == b"x" * 20_000


@pytest.fixture
def large() -> tuple[Relayed, bytes]:
    """A stream that no kernel buffer holds, and all of its bytes."""
    return Relayed(LARGE), content(LARGE)


async def test_a_client_that_has_stalled_is_cut(large: tuple[Relayed, bytes]) -> None:
    stream, data = large
    async with relaying(stream, body_idle=0.3) as server:
        feeding = asyncio.ensure_future(stream.give(data))
        async with Raw(server.port, receive_buffer=65536) as raw:
            await raw.send(GET)
            await server.until_quiet()
            assert stream.closed == 1
            assert len(await raw.receive_all()) < LARGE
        await feeding
        path, status, _, sent = server.lines[0]
        assert (path, status) == ("/pull", 499)
        assert 65536 <= sent < LARGE


async def test_relays_hold_little_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clients that do not read, the first few hold a slice each, and the others nothing."""
    monkeypatch.setattr(relay, "HELD_MOST", 2 * SLICE)
    streams = [Relayed(LARGE) for _ in range(8)]
    async with relaying(*streams) as server, AsyncExitStack() as stack:
        feeding = [asyncio.ensure_future(stream.give(content(LARGE))) for stream in streams]
        for _ in streams:
            raw = await stack.enter_async_context(Raw(server.port, receive_buffer=4096))
            await raw.send(GET)
        await eventually(lambda: len(server.service.tasks) == len(streams))
        await asyncio.sleep(0.5)
        assert relay._Relay.held_by_all < 3 * SLICE
        await stack.aclose()
        await asyncio.gather(*feeding)


async def test_a_client_that_is_slow_but_steady_is_not_cut(large: tuple[Relayed, bytes]) -> None:
    """What it takes out of the kernel's buffers is progress, though they take nothing more yet."""
    stream, data = large
    loop = asyncio.get_running_loop()
    async with relaying(stream, body_idle=0.4) as server, Raw(server.port, 16384) as raw:
        feeding = asyncio.ensure_future(stream.give(data))
        await raw.send(GET)
        start = loop.time()
        while loop.time() - start < 2:
            assert await raw.receive(8192)
            await asyncio.sleep(0.02)
        assert server.service.connections
        raw.reset()
        await feeding


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_is_gone_in_the_middle(large: tuple[Relayed, bytes], how: str) -> None:
    stream, data = large
    async with relaying(stream) as server:
        feeding = asyncio.ensure_future(stream.give(data))
        async with Raw(server.port) as raw:
            await raw.send(GET)
            await raw.receive()
            if how == "reset":
                raw.reset()
        await server.until_quiet()
        await feeding
        path, status, _, sent = server.lines[0]
        assert (path, status) == ("/pull", 499)
        assert 65536 <= sent < LARGE


async def test_a_client_that_is_gone_while_the_store_is_silent() -> None:
    """It is noticed long before the store's time is up."""
    stream = Relayed(LARGE)
    async with relaying(stream) as server, Raw(server.port) as raw:
        await raw.send(GET)
        await stream.give(content(1000))
        received = b""
        while not received.endswith(content(1000)):
            received += await raw.receive()
        raw.reset()
        await server.until_quiet()


async def test_shutting_down_ends_a_relay() -> None:
    stream = Relayed(LARGE)

    async def pull(request: Request) -> Response:
        return Response(200, body=stream)

    async with serving(shut_down=True, pull=pull) as server, Raw(server.port) as raw:
        await raw.send(GET)
        await stream.give(content(1000))
        assert await raw.receive()
        await server.service.close(0)
        await raw.receive_all()
    stream.store.close()
    assert stream.closed == 1
