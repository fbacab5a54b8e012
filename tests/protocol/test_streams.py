"""Large responses: bounded memory under slow readers, stalled ones cut, cuts that are seen."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from epoch.http.connection import Connection
from epoch.http.message import Request, Response
from epoch.http.sending import WRITE_HIGH
from tests.protocol.serve import Blocks, Raw, Server, content, quick, serving, statuses
from tests.tools.running import eventually

MIB = 1 << 20
LARGE = 64 * MIB
"""More than all kernel buffers on the way hold."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "large"
    path.write_bytes(content(LARGE))
    return path


def sends(server: Server, path: Path | None, length: int = LARGE, offset: int = 0) -> None:
    """Let `/large` answer with a stream, from a file if there is one."""

    async def large(request: Request) -> Response:
        server.streams.append(Blocks(length, path, offset))
        return Response(200, body=server.streams[-1])

    server.handlers["large"] = large


@pytest.fixture(params=["chunks", "file"])
def path(request: pytest.FixtureRequest, file: Path) -> Path | None:
    return file if request.param == "file" else None


GET = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("length", [0, 1, 65536, 1_000_001, 10 * MIB])
async def test_a_stream_comes_whole(path: Path | None, length: int) -> None:
    async with serving() as server, server.client() as client:
        sends(server, path, length)
        for _ in range(2):
            answer = await client.request("GET", "/large")
            assert answer.body == content(length)
            assert answer.headers["content-length"] == str(length)
        assert (await client.request("GET", "/hello")).status == 200
        assert [line[3] for line in server.lines] == [length, length, 6]


async def test_a_range_of_a_file(file: Path) -> None:
    async with serving() as server, server.client() as client:
        sends(server, file, 1_000_000, 12_345)
        answer = await client.request("GET", "/large")
        assert answer.body == content(LARGE)[12_345:1_012_345]


async def test_pipelined_streams(path: Path | None) -> None:
    async with serving() as server, Raw(server.port) as raw:
        sends(server, path, 500_000)
        hello = LAST.replace(b"Connection: close\r\n", b"")
        await raw.send((hello + GET) * 10 + LAST)
        answer = await raw.receive_all()
        assert statuses(answer) == [200] * 21
        assert answer.count(content(500_000)) == 10


async def test_head_opens_nothing_to_send(path: Path | None) -> None:
    async with serving() as server, server.client() as client:
        sends(server, path)
        answer = await client.request("HEAD", "/large")
        assert answer.headers["content-length"] == str(LARGE)
        assert server.streams[0].sent == 0


async def test_a_reader_that_does_not_read_holds_little() -> None:
    async with serving() as server, Raw(server.port, receive_buffer=65536) as raw:
        sends(server, None)
        await raw.send(GET)
        await eventually(lambda: bool(server.streams) and server.streams[0].sent > WRITE_HIGH)
        (connection,) = server.service.connections
        assert isinstance(connection, Connection)
        sent = -1
        while sent != server.streams[0].sent:  # until it is quiet
            sent = server.streams[0].sent
            await asyncio.sleep(0.1)
        assert sent < LARGE / 2
        assert connection._transport.get_write_buffer_size() <= WRITE_HIGH + 65536


async def test_a_reader_that_has_stalled_is_cut(path: Path | None) -> None:
    async with serving(timeouts=quick(body_idle=0.3)) as server:
        async with Raw(server.port, receive_buffer=65536) as raw:
            sends(server, path)
            await raw.send(GET)
            await server.until_quiet()
            assert server.streams[0].closed == 1
            answer = await raw.receive_all()
            assert len(answer) < LARGE
        target, status, _, sent = server.lines[0]
        assert (target, status) == ("/large", 499)
        assert len(answer.partition(b"\r\n\r\n")[2]) <= sent < LARGE


async def test_a_reader_that_is_slow_but_steady_is_not_cut(path: Path | None) -> None:
    """Even where the kernel holds so much that it takes nothing more for far longer than a client
    may stall: what the client takes out of it is progress too."""
    timeouts = quick(body_idle=0.4)
    async with serving(timeouts=timeouts) as server, Raw(server.port, 16384) as raw:
        sends(server, path)
        await raw.send(GET)
        start = time.monotonic()
        while time.monotonic() - start < 2:
            assert await raw.receive(8192)
            await asyncio.sleep(0.02)
        assert server.service.connections
        raw.reset()


async def test_nobody_reads_a_pipeline_of_answers(path: Path | None) -> None:
    """Waiting for room costs no CPU time, and ends."""
    async with serving(timeouts=quick(body_idle=0.8)) as server:
        async with Raw(server.port, receive_buffer=65536) as raw:
            sends(server, path, 2_000_000)
            await raw.send(GET * 20)
            await asyncio.sleep(0.2)
            cpu = time.process_time()
            await asyncio.sleep(0.4)
            assert time.process_time() - cpu < 0.2
            assert server.service.connections
            await server.until_quiet()
        assert len(server.streams) < 20


async def test_nobody_reads_many_small_answers() -> None:
    """Less than what pauses the writer, but more than the kernel takes: no close without end."""

    async def some(request: Request) -> Response:
        return Response(200, body=bytes(150_000))

    timeouts, get = quick(body_idle=0.4, idle=0.2), GET.replace(b"large", b"some")
    async with serving(timeouts=timeouts, some=some) as server, Raw(server.port, 4096) as raw:
        await raw.send(get)
        await eventually(lambda: bool(server.service.connections))
        (connection,) = server.service.connections
        assert isinstance(connection, Connection)
        while not connection._transport.get_write_buffer_size():
            await raw.send(get)
            await asyncio.sleep(0.005)
        await server.until_quiet()


@pytest.mark.parametrize("length", [300_000, 12 * MIB])
async def test_the_last_answer_waits_for_a_slow_reader(length: int) -> None:
    """The connection lingers a moment only, but not before all of the answer is out."""

    async def big(request: Request) -> Response:
        return Response(200, body=content(length))

    async with serving(big=big) as server, Raw(server.port, receive_buffer=4096) as raw:
        await raw.send(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await asyncio.sleep(1.2)  # longer than it lingers
        assert (await raw.receive_all()).partition(b"\r\n\r\n")[2] == content(length)


# ---- streams that break


class Failing(Blocks):
    def __init__(self, sent: int, failure: Exception | None) -> None:
        super().__init__(LARGE)
        self.promised = sent
        self.failure = failure


@pytest.mark.parametrize("failure", [None, OSError("disk on fire"), ZeroDivisionError()])
@pytest.mark.parametrize("sent", [0, 100_000, 10 * MIB])
async def test_a_stream_that_breaks_cuts_the_connection(
    sent: int, failure: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    """No clean end: the client must not take a part for the whole; nor is a request behind run."""
    async with serving() as server, Raw(server.port) as raw:

        async def break_off(request: Request) -> Response:
            server.streams.append(Failing(sent, failure))
            return Response(200, body=server.streams[-1])

        server.handlers["break"] = break_off
        await raw.send(GET.replace(b"large", b"break") + LAST)
        answer = await raw.receive_all()
        assert len(answer) < LARGE
        assert b"hello " not in answer[-1000:]
        await server.until_quiet()
        assert server.lines == [("/break", 502, 0, sent)]
        assert server.streams[0].closed == 1
    assert len(caplog.records) == 1
    assert "a response was cut: GET /break: " in caplog.text


async def test_a_file_that_has_become_shorter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = tmp_path / "short"
    short.write_bytes(content(1000))
    async with serving() as server, Raw(server.port) as raw:
        sends(server, short, 2000)
        await raw.send(GET + LAST)
        head, _, body = (await raw.receive_all()).partition(b"\r\n\r\n")
        assert b"Content-Length: 2000" in head
        assert body == content(1000)
        assert server.lines == [("/large", 502, 0, 1000)]
    assert "shorter" in caplog.text


async def test_a_stream_that_cannot_be_closed(caplog: pytest.LogCaptureFixture) -> None:
    class Sticky(Blocks):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("stuck")

    async with serving() as server, Raw(server.port) as raw:

        async def sticky(request: Request) -> Response:
            server.streams.append(Sticky(1000))
            return Response(200, body=server.streams[-1])

        server.handlers["large"] = sticky
        await raw.send(GET)
        await raw.receive_all()
        await server.until_quiet()
        assert len(caplog.records) == 1
        assert [line[1] for line in server.lines] == [500]  # cut: nobody knows what arrived


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_is_gone_in_the_middle(path: Path | None, how: str) -> None:
    async with serving() as server:
        async with Raw(server.port) as raw:
            sends(server, path)
            await raw.send(GET)
            await raw.receive()
            if how == "reset":
                raw.reset()
        await server.until_quiet()
        assert server.streams[0].closed == 1
        target, status, _, sent = server.lines[0]
        assert (target, status) == ("/large", 499)
        assert 65536 <= sent < LARGE
