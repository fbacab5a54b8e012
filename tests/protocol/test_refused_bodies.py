"""What comes after a body that was refused is no request, wherever the bytes are split."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from epoch.errors import Code, RegistryError
from epoch.http.message import Flow, Request, Response
from tests.protocol.serve import PartSink, Raw, Server, exchange, serving, statuses
from tests.tools.client import encode_chunk

LIMIT = 8
DELETE = b"DELETE /never HTTP/1.1\r\nHost: a\r\n\r\n"
SMUGGLED = (
    b"PUT /small HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(DELETE), DELETE)
) + DELETE
"""A request whose body is a request, and that one again."""


def chunked(*chunks: bytes, fields: bytes = b"") -> bytes:
    head = b"PUT /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + fields + b"\r\n"
    return head + b"".join(map(encode_chunk, chunks)) + b"0\r\n\r\n"


TOO_LARGE = chunked(b"x" * LIMIT, b"y")


async def _small(request: Request) -> Response:
    return Response(200, body=await request.body.read(LIMIT))


class Refusing(PartSink):
    """Refuses the last bytes of a body, once they have come."""

    def received(self, count: int) -> None:
        self.total = getattr(self, "total", 0) + count
        if self.total > LIMIT:
            raise RegistryError(Code.DIGEST_INVALID)
        super().received(count)


class GivingUp(PartSink):
    """Ends the body by its flow, from within the receive of its last bytes."""

    def received(self, count: int) -> None:
        super().received(count)
        self.total = getattr(self, "total", 0) + count
        if self.total > LIMIT:
            self.flow.fail(RegistryError(Code.DIGEST_INVALID))


def _into(make: Callable[..., PartSink]) -> Callable[[Server], None]:
    def install(server: Server) -> None:
        async def put(request: Request) -> Response:
            def build(flow: Flow) -> PartSink:
                server.sinks.append(make(flow, server.pool, server.window))
                return server.sinks[-1]

            try:
                await request.body.into(build)
            finally:
                server.sinks[-1].close()
            return Response(200)

        server.handlers["small"] = put

    return install


def _read(server: Server) -> None:
    server.handlers["small"] = _small


REFUSALS = {"read": (_read, 413), "sink": (_into(Refusing), 400), "flow": (_into(GivingUp), 400)}


@pytest.mark.parametrize("how", REFUSALS)
async def test_in_every_split(how: str) -> None:
    install, status = REFUSALS[how]
    wire = TOO_LARGE + SMUGGLED
    async with serving() as server:
        install(server)
        gate = asyncio.Semaphore(32)

        async def split(at: int) -> None:
            async with gate:
                answer = await exchange(server.port, wire[:at], wire[at:])
                assert statuses(answer) == [status], wire[:at]
                assert b"\r\nConnection: close\r\n" in answer

        await asyncio.gather(*(split(at) for at in range(1, len(wire) + 1)))
        assert {line[0] for line in server.lines} == {"/small"}
        assert len(server.lines) == len(wire)


@pytest.mark.parametrize(
    "first",
    [
        TOO_LARGE,
        chunked(b"x" * LIMIT, b"y", fields=b"Expect: 100-continue\r\n"),
        chunked(b"x" * 9).replace(b"PUT /small", b"HEAD /small"),
        chunked(b"x").replace(b"1\r\nx", b"1\r\nxx"),
        b"PUT /ignore HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /stream/9 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"PUT /small HTTP/1.1\r\nHost: a\r\nExpect: what\r\nContent-Length: 3\r\n\r\nabc",
        b"PUT /small HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\nabc",
    ],
)
async def test_whatever_was_wrong(first: bytes) -> None:
    """Also a body that nobody read, and one before which the client has to wait."""
    async with serving(small=_small) as server:
        for cut in (len(first), len(first) - 1, len(first) + 30):
            wire = first + SMUGGLED
            answer = await exchange(server.port, wire[:cut], wire[cut:])
            assert answer.count(b"HTTP/1.1 ") - answer.count(b"HTTP/1.1 100 ") == 1
            assert b"\r\nConnection: close\r\n" in answer
        assert "/never" not in {line[0] for line in server.lines}


async def test_a_body_that_waits_for_100_continue_in_vain() -> None:
    """Nobody can know whether the client sends it all the same."""
    head = b"PUT /refuse/403/DENIED HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    async with serving() as server, Raw(server.port) as raw:
        await raw.send(head + b"Content-Length: 3\r\n\r\n")
        answer = await raw.receive()
        await raw.send(SMUGGLED)
        assert statuses(answer + await raw.receive_all()) == [403]


async def test_a_body_that_was_read_to_its_end_may_be_refused() -> None:
    """By a handler, after the last byte: what follows is a request."""

    async def judge(request: Request) -> Response:
        await request.body.read(LIMIT)
        raise RegistryError(Code.DIGEST_INVALID)

    async with serving(small=judge) as server, Raw(server.port) as raw:
        last = b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        await raw.send(chunked(b"x" * LIMIT) + last)
        assert statuses(await raw.receive_all()) == [400, 200]
