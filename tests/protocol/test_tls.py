"""Bodies over TLS, which OpenSSL decrypts straight into the buffers of sinks."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from epoch.config import TlsSettings
from epoch.errors import Code, RegistryError
from epoch.http import listener
from epoch.http.message import Flow, Request, Response
from epoch.http.tls import Records, Tls
from tests.protocol.serve import Raw, digest_line, serving, statuses
from tests.tools.authority import Authority
from tests.tools.client import Client, pieces
from tests.tools.running import eventually

if TYPE_CHECKING:
    from typing_extensions import Buffer

RECORD = 16384
"""The most plain text in one (RFC 8446, section 5.1)."""


class Ends(NamedTuple):
    """What the two sides need."""

    server: Tls
    client: ssl.SSLContext


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    authority = Authority(tmp_path, "authority")
    cert, key = authority.issue("server")
    client = ssl.create_default_context(cafile=str(authority.path))
    return Ends(Tls(TlsSettings(cert=cert, key=key)), client)


class Gathering:
    """Keeps all that comes. Pauses after every receive where `pauses`; fails where it is told."""

    def __init__(self, flow: Flow, size: int, *, pauses: bool, fails: str) -> None:
        self.data = b""
        self._flow = flow
        self._buffer = bytearray(size)
        self._pauses = pauses
        self._fails = fails

    def get_buffer(self, limit: int) -> Buffer:
        if self._fails == "get_buffer" and len(self.data) >= 100_000:
            raise RegistryError(Code.DENIED)
        return memoryview(self._buffer)[:limit]

    def received(self, count: int) -> None:
        self.data += self._buffer[:count]
        if self._fails == "received" and len(self.data) >= 100_000:
            raise RegistryError(Code.DENIED)
        if self._pauses:
            self._flow.pause()
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: loop.call_soon(self._flow.resume))

    def idle(self, seconds: float) -> None: ...


@pytest.mark.parametrize("window", [1000, RECORD - 1, RECORD, 65536])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_land_in_part_buffers(ends: Ends, window: int, chunked: bool) -> None:
    body = random.Random(1).randbytes(700_001)
    sent = pieces(body, 7777) if chunked else body
    async with serving(tls=ends.server) as server, Client(server.port, ends.client) as client:
        server.window = window
        for _ in range(2):
            assert (await client.request("PUT", "/sink", sent)).body == digest_line(body)
        assert (await client.request("GET", "/hello")).body == b"hello "


@pytest.mark.parametrize("pauses", [False, True])
@pytest.mark.parametrize("size", [777, 4 * RECORD])
async def test_what_follows_a_body_is_the_next_request(ends: Ends, size: int, pauses: bool) -> None:
    body = random.Random(2).randbytes(100_000)
    sinks: list[Gathering] = []

    async def gather(request: Request) -> Response:
        def make(flow: Flow) -> Gathering:
            sinks.append(Gathering(flow, size, pauses=pauses, fails=""))
            return sinks[-1]

        await request.body.into(make)
        return Response(200, body=b"gathered")

    head = b"PUT /gather HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"
    both = head + body + head + body + b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"
    async with (
        serving(tls=ends.server, gather=gather) as server,
        Client(server.port, ends.client) as client,
    ):
        await client.send(both)
        answers = [(await client.answer()).body for _ in range(3)]
    assert answers == [b"gathered", b"gathered", b"hello "]
    assert [sink.data for sink in sinks] == [body] * 2


@pytest.mark.parametrize("fails", ["get_buffer", "received"])
async def test_a_sink_that_fails_is_told_to_the_client(ends: Ends, fails: str) -> None:
    async def gather(request: Request) -> Response:
        await request.body.into(lambda flow: Gathering(flow, 9999, pauses=False, fails=fails))
        return Response(200)

    async with (
        serving(tls=ends.server, gather=gather) as server,
        Client(server.port, ends.client) as client,
    ):
        answer = await client.request("PUT", "/gather", bytes(300_000))
    assert answer.refusal == (403, "DENIED")


@pytest.mark.parametrize("close", [Client.reset, Client.close])
async def test_a_client_that_leaves_within_a_body(ends: Ends, close: object) -> None:
    assert callable(close)
    async with serving(tls=ends.server) as server, Client(server.port, ends.client) as client:
        await client.send(b"PUT /sink HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n")
        await client.send(bytes(500_000))
        await eventually(lambda: bool(server.sinks) and server.sinks[0].digest.length == 500_000)
        close(client)
        await server.until_quiet()  # and `serving` sees that no buffer is left


def resident() -> int:
    """Bytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_plain_http_is_told_so_and_closed(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.5)
    async with serving(tls=ends.server) as server:
        for first in (b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n", b"PUT /sink HTTP/1.1\r\n"):
            async with Raw(server.port) as raw:
                await raw.send(first)
                answer = await raw.receive_all()
            assert statuses(answer) == [400]
            assert b"speaks TLS" in answer
        assert server.lines == []


async def test_what_follows_plain_http_is_not_kept(ends: Ends) -> None:
    async with serving(tls=ends.server) as server, Raw(server.port) as raw:
        await raw.send(b"PUT /sink HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n")
        before = resident()
        for _ in range(64):
            await raw.send(bytes(1 << 20))
        assert resident() - before < 16 << 20
        assert statuses(await raw.receive()) == [400]


async def test_other_noise_is_cut(ends: Ends) -> None:
    async with serving(tls=ends.server) as server:
        for noise in (
            b"SSH-2.0-x\r\n",
            b"BREW /hello HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01" + bytes(99),
        ):
            async with Raw(server.port) as raw:
                await raw.send(noise)
                assert b"HTTP" not in await raw.receive_all()


async def test_records_read_without_a_detour(ends: Ends) -> None:
    """`_sslobj` is not public: where it goes, this tells."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = ends.server.context.wrap_bio(incoming, outgoing, server_side=True)
    assert isinstance(one, Records)
    for name in ("read", "write", "pending"):
        assert getattr(one, name) == getattr(one._sslobj, name)  # type: ignore[attr-defined]
