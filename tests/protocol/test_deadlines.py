"""Deadlines follow progress: who is silent or drips is let go, who is only slow is not."""

from __future__ import annotations

import asyncio
import time

import pytest

from epoch.http.message import Flow, Request, Response
from tests.protocol.serve import PartSink, Raw, digest_line, quick, serving, statuses
from tests.tools.running import eventually

PUT = b"PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"


async def drip(raw: Raw, byte: bytes, pause: float) -> None:
    """Send a byte at a time until the server closes."""
    try:
        while True:
            await raw.send(byte)
            await asyncio.sleep(pause)
    except ConnectionError:
        pass


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
async def test_a_head_must_come_in_time_however_it_drips_in(before: bytes) -> None:
    async with serving(timeouts=quick(head=0.2)) as server, Raw(server.port) as raw:
        await raw.send(before + b"GET /hello HTTP/1.1\r\nX: ")
        start = time.monotonic()
        dripping = asyncio.create_task(drip(raw, b"x", 0.01))
        answer = await raw.receive_all()
        assert 0.1 < time.monotonic() - start < 2
        await dripping
        assert statuses(answer) == [200] * bool(before) + [408]
        assert b'"BAD_REQUEST"' in answer


async def test_a_connection_without_a_request_is_closed_silently() -> None:
    async with serving(timeouts=quick(head=0.1)) as server, Raw(server.port) as raw:
        assert await raw.receive_all() == b""
        assert server.lines == []


async def test_an_idle_connection_is_closed_silently() -> None:
    async with serving(timeouts=quick(idle=0.1)) as server, Raw(server.port) as raw:
        await raw.send(GET)
        start = time.monotonic()
        assert statuses(await raw.receive_all()) == [200]
        assert 0.05 < time.monotonic() - start < 2


async def test_the_time_for_a_head_runs_from_its_first_byte() -> None:
    """Not from the last response: an idle connection is not yet late when a head begins."""
    async with serving(timeouts=quick(head=0.5)) as server, Raw(server.port) as raw:
        await raw.send(GET)
        await raw.receive()
        await asyncio.sleep(0.7)
        await raw.send(GET[:10])
        await asyncio.sleep(0.2)
        await raw.send(GET[10:])
        assert (await raw.receive()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"hello"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_silent_body(sent: bytes, chunked: bool) -> None:
    head = PUT.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked") if chunked else PUT
    body = b"ffff\r\n" + sent if chunked and sent else sent
    async with serving(timeouts=quick(body_idle=0.1)) as server, Raw(server.port) as raw:
        await raw.send(head + body)
        answer = await raw.receive_all()
        assert statuses(answer) == [408]
        assert b"\r\nConnection: close\r\n" in answer
        assert server.lines[0][1:3] == (408, len(sent))


async def test_a_body_below_the_minimum_rate() -> None:
    """Each byte resets the idle limit; the rate is what ends it."""
    timeouts = quick(body_idle=0.2, min_rate=1000.0)
    async with serving(timeouts=timeouts) as server, Raw(server.port) as raw:
        await raw.send(PUT)
        dripping = asyncio.create_task(drip(raw, b"x", 0.02))
        assert statuses(await raw.receive_all()) == [408]
        await dripping


async def test_a_body_that_is_slow_but_steady_is_taken() -> None:
    body = bytes(12_000)
    timeouts = quick(head=0.1, idle=0.1, body_idle=0.6, min_rate=1000.0)
    async with serving(timeouts=timeouts) as server, Raw(server.port) as raw:
        await raw.send(PUT.replace(b"100000", b"12000"))
        for at in range(0, len(body), 500):
            await raw.send(body[at : at + 500])
            await asyncio.sleep(0.05)  # 24 of them: many times over each limit in all
        assert (await raw.receive()).endswith(digest_line(body))


async def test_time_in_which_we_do_not_read_does_not_count() -> None:
    flows: list[Flow] = []

    class Stopping(PartSink):
        def received(self, count: int) -> None:
            super().received(count)
            flows.append(self.flow)
            if len(flows) == 1:
                self.flow.pause()

    timeouts = quick(body_idle=0.5, min_rate=100.0)
    async with serving(timeouts=timeouts) as server, Raw(server.port) as raw:

        async def stop(request: Request) -> Response:
            sink: Stopping | None = None

            def make(flow: Flow) -> Stopping:
                nonlocal sink
                sink = Stopping(flow, server.pool, 4096)
                return sink

            try:
                await request.body.into(make)
            finally:
                assert sink is not None
                sink.close()
            return Response(200)

        server.handlers["stop"] = stop
        await raw.send(PUT.replace(b"sink", b"stop").replace(b"100000", b"10") + b"hello")
        await eventually(lambda: bool(flows))
        await asyncio.sleep(1.0)
        flows[0].resume()
        await asyncio.sleep(0.1)
        await raw.send(b"world")
        assert (await raw.receive()).startswith(b"HTTP/1.1 200")


async def test_pauses_do_not_help_a_body_below_the_minimum_rate() -> None:
    class Pausing(PartSink):
        def received(self, count: int) -> None:
            super().received(count)
            self.flow.pause()
            asyncio.get_running_loop().call_soon(self.flow.resume)

    timeouts = quick(body_idle=1.0, min_rate=1000.0)
    async with serving(timeouts=timeouts) as server, Raw(server.port) as raw:

        async def pause(request: Request) -> Response:
            sinks: list[Pausing] = []

            def make(flow: Flow) -> Pausing:
                sinks.append(Pausing(flow, server.pool, 4096))
                return sinks[0]

            try:
                await request.body.into(make)
            finally:
                sinks[0].close()
            return Response(200)

        server.handlers["pause"] = pause
        await raw.send(PUT.replace(b"sink", b"pause"))
        start = time.monotonic()
        dripping = asyncio.create_task(drip(raw, b"x", 0.02))
        assert statuses(await raw.receive_all()) == [408]
        assert time.monotonic() - start < 2
        await dripping


async def test_time_before_the_body_is_read_does_not_count() -> None:
    async def late(request: Request) -> Response:
        await asyncio.sleep(0.4)
        return Response(200, body=await request.body.read(100))

    timeouts = quick(head=0.1, idle=0.1, body_idle=0.2, min_rate=1000.0)
    async with serving(timeouts=timeouts, late=late) as server, Raw(server.port) as raw:
        await raw.send(b"PUT /late HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert (await raw.receive()).endswith(b"hello")


async def test_a_sink_is_told_of_silence() -> None:
    async with serving() as server, Raw(server.port) as raw:
        await raw.send(PUT + b"x")
        await eventually(lambda: bool(server.sinks) and server.sinks[0].idles > 2)


async def test_what_a_sink_raises_when_told_of_silence() -> None:
    class Impatient(PartSink):
        def idle(self, seconds: float) -> None:
            assert seconds >= 1
            raise ZeroDivisionError

    async with serving() as server, Raw(server.port) as raw:

        async def give_up(request: Request) -> Response:
            with pytest.raises(ZeroDivisionError):
                await request.body.into(lambda flow: Impatient(flow, server.pool, 4096))
            return Response(503)

        server.handlers["sink"] = give_up
        await raw.send(PUT)
        assert statuses(await raw.receive_all()) == [503]


async def test_one_connection_that_fails_does_not_end_the_deadlines_of_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        """Stands for a connection with a mistake of ours in it."""

        aborted = False

        def tick(self, now: float) -> None:
            raise ZeroDivisionError

        def close_when_idle(self) -> None:
            """Goes when it is aborted."""

        def abort(self) -> None:
            self.aborted = True
            service.connections.discard(self)

    broken = Broken()
    async with serving(timeouts=quick(head=0.1)) as server, Raw(server.port) as raw:
        service = server.service
        service.connections.add(broken)
        assert await raw.receive_all() == b""
        await eventually(lambda: broken.aborted)
    assert "cannot be held to its deadlines" in caplog.text
