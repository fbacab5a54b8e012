"""Sinks that pause, fail and give up, and clients that leave while they do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from epoch.errors import Code, RegistryError
from epoch.http.message import BodySink, ClientGone, Flow, Handler, Request, Response
from tests.protocol.serve import PartSink, Raw, serving, statuses
from tests.tools.client import Client, pieces
from tests.tools.running import eventually

if TYPE_CHECKING:
    from typing_extensions import Buffer


def into(make: Callable[[Flow], BodySink], outcomes: list[object]) -> Handler:
    """A handler that reads into a sink, and notes what came of it."""

    async def handle(request: Request) -> Response:
        try:
            outcomes.append(await request.body.into(make))
        except BaseException as error:
            outcomes.append(error)
            raise
        return Response(200, body=b"done")

    return handle


class Gathering:
    """Keeps all that comes, by way of a small buffer."""

    def __init__(self, flow: Flow, size: int = 1000) -> None:
        self.flow = flow
        self.data = b""
        self.buffer = bytearray(size)

    def get_buffer(self, limit: int) -> Buffer:
        return memoryview(self.buffer)[:limit]

    def received(self, count: int) -> None:
        self.data += self.buffer[:count]

    def idle(self, seconds: float) -> None: ...


class Pausing(Gathering):
    """Pauses after every receive, and resumes a little later."""

    def received(self, count: int) -> None:
        super().received(count)
        self.flow.pause()
        self.flow.pause()
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(self.flow.resume))


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_sink_that_pauses_after_every_receive(chunked: bool) -> None:
    body = random.Random(3).randbytes(100_000)
    outcomes: list[object] = []
    sinks: list[Pausing] = []

    def make(flow: Flow) -> Pausing:
        sinks.append(Pausing(flow))
        return sinks[-1]

    async with serving(pause=into(make, outcomes)) as server, server.client() as client:
        sent = pieces(body, 777) if chunked else body
        for _ in range(2):
            assert (await client.request("PUT", "/pause", sent)).body == b"done"
        assert (await client.request("GET", "/hello")).status == 200
    assert outcomes == [len(body)] * 2
    assert [sink.data for sink in sinks] == [body] * 2


async def test_a_pipelined_request_behind_a_body_that_was_paused() -> None:
    outcomes: list[object] = []
    async with serving(pause=into(Pausing, outcomes)) as server, server.client() as client:
        head = b"PUT /pause HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send((head + b"5\r\nhello\r\n0\r\n\r\n") * 3)
        for _ in range(3):
            assert (await client.answer()).body == b"done"
    assert outcomes == [5, 5, 5]


async def test_a_sink_that_is_paused_from_the_start_is_asked_for_nothing() -> None:
    asked = 0
    flows: list[Flow] = []

    class Waiting(Gathering):
        def __init__(self, flow: Flow) -> None:
            super().__init__(flow)
            flow.pause()
            flows.append(flow)

        def get_buffer(self, limit: int) -> Buffer:
            nonlocal asked
            asked += 1
            return super().get_buffer(limit)

    outcomes: list[object] = []
    async with serving(wait=into(Waiting, outcomes)) as server, server.client() as client:
        await client.send(b"PUT /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        await eventually(lambda: bool(flows))
        await client.send(b"world")
        async with server.client() as other:
            assert (await other.request("GET", "/hello")).status == 200
        assert asked == 0
        flows[0].resume()
        assert (await client.answer()).body == b"done"
    assert outcomes == [10]


async def test_what_a_paused_client_has_sent_is_seen() -> None:
    """Without reading it: what came with the head, and what lies in the kernel."""
    flows: list[Flow] = []

    class Waiting(Gathering):
        def __init__(self, flow: Flow) -> None:
            super().__init__(flow)
            flow.pause()
            flows.append(flow)

    outcomes: list[object] = []
    async with serving(wait=into(Waiting, outcomes)) as server, server.client() as client:
        await client.send(b"PUT /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nhello")
        await eventually(lambda: bool(flows))
        assert flows[0].unread() == 5
        await client.send(bytes(4000))
        await eventually(lambda: flows[0].unread() == 4005)
        flows[0].resume()
        await client.send(bytes(995))
        assert (await client.answer()).body == b"done"
        assert flows[0].unread() == 0
    assert outcomes == [5000]
    assert flows[0].unread() == 0


async def test_a_paused_client_is_held_by_tcp() -> None:
    """What is sent to a paused sink piles up in the kernels, not here."""
    flows: list[Flow] = []

    class Stopping(Gathering):
        def received(self, count: int) -> None:
            super().received(count)
            if not flows:
                flows.append(self.flow)
                self.flow.pause()

    outcomes: list[object] = []
    size = 64 * 1024 * 1024
    async with serving(stop=into(Stopping, outcomes)) as server, Raw(server.port) as raw:
        head = b"PUT /stop HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
        await raw.send(head)
        assert await raw.send_what_fits(size) < size / 2
        raw.reset()
        flows[0].resume()
        await server.until_quiet()
    assert isinstance(outcomes[0], ClientGone)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("after", [0, 1, 50])
async def test_what_a_sink_raises_is_what_the_handler_sees(chunked: bool, after: int) -> None:
    class Failing(Gathering):
        receives = 0

        def received(self, count: int) -> None:
            super().received(count)
            self.receives += 1
            if self.receives > after:
                raise RegistryError(Code.DIGEST_INVALID, "as expected")

    outcomes: list[object] = []
    body = bytes(200_000)
    async with serving(fail=into(Failing, outcomes)) as server, server.client() as client:
        answer = await client.request("PUT", "/fail", pieces(body, 5000) if chunked else body)
        assert answer.refusal == (400, "DIGEST_INVALID")
        assert answer.headers["connection"] == "close"
        assert await client.at_end()
    (error,) = outcomes
    assert isinstance(error, RegistryError)


@pytest.mark.parametrize("when", [0, 1, 40])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_sink_that_has_no_buffer(
    when: int, chunked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the kernel refuses memory: the loop calls for the buffer, the handler must hear."""

    class Poor(Gathering):
        calls = 0

        def get_buffer(self, limit: int) -> Buffer:
            self.calls += 1
            if self.calls > when:
                raise MemoryError("none left")
            return super().get_buffer(limit)

    outcomes: list[object] = []
    body = bytes(200_000)
    async with serving(poor=into(Poor, outcomes)) as server, server.client() as client:
        answer = await client.request("PUT", "/poor", pieces(body, 5000) if chunked else body)
        assert answer.refusal == (500, "UNKNOWN")
        assert await client.at_end()
    (error,) = outcomes
    assert isinstance(error, MemoryError)
    (record,) = caplog.records
    assert record.message.startswith("a handler failed")


async def test_a_sink_ends_the_body_through_its_flow() -> None:
    class Ending(Gathering):
        def received(self, count: int) -> None:
            self.flow.fail(RegistryError(Code.UNAVAILABLE))

    outcomes: list[object] = []
    async with serving(end=into(Ending, outcomes)) as server, server.client() as client:
        answer = await client.request("PUT", "/end", bytes(100_000))
        assert answer.refusal == (503, "UNAVAILABLE")


@pytest.mark.parametrize("how", [Client.reset, Client.close, Client.finish])
@pytest.mark.parametrize("sent", [0, 1, 100_000])
async def test_a_client_that_leaves_in_the_middle(how: Callable[[Client], None], sent: int) -> None:
    outcomes: list[object] = []
    async with serving() as server:
        sinks: list[PartSink] = []

        def make(flow: Flow) -> PartSink:
            sinks.append(PartSink(flow, server.pool, 16384))
            return sinks[-1]

        server.handlers["put"] = into(make, outcomes)
        async with server.client() as client:
            head = b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n"
            await client.send(head + bytes(sent))
            await eventually(lambda: bool(sinks) and sinks[0].digest.length == sent)
            how(client)
            await eventually(lambda: bool(outcomes))
            sinks[0].close()
        (error,) = outcomes
        assert isinstance(error, RegistryError | ClientGone)
        if isinstance(error, RegistryError):
            assert error.code is Code.SIZE_INVALID


async def test_a_client_that_leaves_while_its_sink_is_paused() -> None:
    """The loop tells of it only once reading goes on."""
    flows: list[Flow] = []

    class Stopping(Gathering):
        def received(self, count: int) -> None:
            flows.append(self.flow)
            self.flow.pause()

    outcomes: list[object] = []
    async with serving(stop=into(Stopping, outcomes)) as server, server.client() as client:
        await client.send(b"PUT /stop HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        await eventually(lambda: bool(flows))
        client.reset()
        flows[0].resume()
        await eventually(lambda: bool(outcomes))
    assert isinstance(outcomes[0], ClientGone)


async def test_a_client_that_is_gone_before_its_body_is_read() -> None:
    """The body must end all the same: nobody will ever send the rest."""
    gate = asyncio.Event()
    outcomes: list[object] = []

    async def late(request: Request) -> Response:
        await gate.wait()
        return await into(Gathering, outcomes)(request)

    async with serving(late=late) as server, server.client() as client:
        await client.send(b"PUT /late HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        await eventually(lambda: bool(server.service.tasks))
        for connection in list(server.service.connections):
            connection.abort()
        await eventually(lambda: not server.service.connections)
        gate.set()
        await eventually(lambda: bool(outcomes))
    assert isinstance(outcomes[0], ClientGone)


async def test_cancelled_while_reading() -> None:
    outcomes: list[object] = []
    async with serving(put=into(Gathering, outcomes)) as server, server.client() as client:
        await client.send(b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        await eventually(lambda: bool(server.service.tasks))
        (task,) = server.service.tasks
        await asyncio.sleep(0)
        task.cancel()
        assert await client.at_end()
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert [line[1] for line in server.lines] == [499]


async def test_a_handler_that_gives_up_in_the_middle_answers() -> None:
    async def impatient(request: Request) -> Response:
        try:
            async with asyncio.timeout(0.05):
                await request.body.into(Gathering)
        except TimeoutError:
            return Response(503, body=b"no patience")
        return Response(200)

    async with serving(impatient=impatient) as server, Raw(server.port) as raw:
        head = b"PUT /impatient HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        await raw.send(head + b"hello")
        answer = await raw.receive_all()
        assert statuses(answer) == [503]
        assert b"\r\nConnection: close\r\n" in answer
