"""Pulls while the store breaks off: they go on where it did, or are cut where anyone can see."""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from epoch.config import MIB, S3Settings, TlsSettings
from epoch.download import stream
from epoch.download.stream import BlobStream
from epoch.http.message import Request, Response
from epoch.http.tls import Tls
from epoch.metrics import metrics
from epoch.store.s3.calls import Patience
from epoch.store.s3.store import S3Store
from tests.contract.stub import Call, serve
from tests.faults.proxy import Fault, Proxy, proxied
from tests.protocol.serve import Raw, Server
from tests.protocol.serve import serving as listening
from tests.tools.authority import Authority
from tests.tools.client import Client, digest_of, get_blob, put_blob
from tests.tools.running import Running, eventually, serving

DATA = random.Random(29).randbytes(12 * MIB)
DIGEST = digest_of(DATA)
CUT = 5 * MIB
KEY = f"blobs/sha256/{DIGEST.partition(':')[2]}"


@asynccontextmanager
async def behind(settings: S3Settings, *faults: Fault) -> AsyncIterator[tuple[Proxy, Running]]:
    """A server over a bucket that holds `DATA`, and the proxy in between, which then fails."""
    async with proxied(settings) as (proxy, broken):
        store = S3Store(broken, Patience(repeat=1.0))
        await store.check()
        async with serving(store) as running:
            assert (await put_blob(running.port, DATA)).status == 201
            proxy.calls.clear()
            proxy.faults = list(faults)
            yield proxy, running
            proxy.faults = []


async def cut_pull(port: int) -> bytes:
    """What comes of a pull that is cut."""
    async with Raw(port) as raw:
        await raw.send(f"GET /v2/a/b/blobs/{DIGEST} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head, _, body = (await raw.receive_all()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nContent-Length: %d" % len(DATA) in head
        return body


@pytest.mark.parametrize("times", [1, 2, 7])
async def test_a_pull_goes_on_where_the_store_broke_off(
    s3_settings: S3Settings, times: int
) -> None:
    """Also the answers that begin in the middle are cut, each further on."""
    after = CUT if times < 3 else MIB
    async with behind(s3_settings, Fault("cut", "get", times=times, after=after)) as (
        proxy,
        running,
    ):
        answer = await get_blob(running.port, DIGEST)
        assert (answer.status, answer.digest) == (200, DIGEST)
        assert proxy.calls["get"] == times + 1


async def test_a_pull_over_tls_goes_on(s3_settings: S3Settings, tmp_path: Path) -> None:
    """Its bytes come by iteration, not from socket to socket."""
    authority = Authority(tmp_path, "authority")
    cert, key = authority.issue("server")
    context = ssl.create_default_context(cafile=str(authority.path))
    async with behind(s3_settings, Fault("cut", "get", times=2, after=CUT)) as (proxy, running):

        async def pull(request: Request) -> Response:
            body = await BlobStream.open(running.store, KEY)
            assert body is not None
            return Response(200, body=body)

        tls = Tls(TlsSettings(cert, key))
        await eventually(lambda: not running.service.connections)
        async with listening(tls=tls, pull=pull) as server, Client(server.port, context) as client:
            answer = await client.request("GET", "/pull")
            assert answer.digest == DIGEST
            assert proxy.calls["get"] == 3


async def test_several_ranges_go_on(s3_settings: S3Settings) -> None:
    async with behind(s3_settings, Fault("cut", "get", nth=2, times=2, after=2 * MIB)) as (
        proxy,
        running,
    ):
        spans = [(0, MIB), (2 * MIB, 9 * MIB), (10 * MIB, 12 * MIB)]
        asked = ",".join(f"{start}-{stop - 1}" for start, stop in spans)
        answer = await get_blob(running.port, DIGEST, f"Range: bytes={asked}")
        assert answer.status == 206
        for start, stop in spans:
            assert DATA[start:stop] in answer.body
        assert proxy.calls["get"] == 5


async def test_a_store_that_always_breaks_off_is_given_up(
    s3_settings: S3Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many times in a row without a byte; what the client got is right, and not whole."""
    monkeypatch.setattr(stream, "_PAUSE", 0.001)
    async with behind(s3_settings) as (proxy, running):
        before = dict(metrics.requests)
        proxy.faults = [Fault("cut", "get", times=1, after=CUT), Fault("cut", "get", nth=2)]
        body = await cut_pull(running.port)
        assert 0 < len(body) <= CUT
        assert DATA.startswith(body)
        await running.until_idle()
        # Each resumption is an answer without a byte, which the store repeats within its patience.
        assert proxy.calls["get"] > 2
        counted = {key: n - before.get(key, 0) for key, n in metrics.requests.items()}
        assert counted["blob", "GET", 502] == 1
        proxy.faults = []
        assert (await get_blob(running.port, DIGEST)).digest == DIGEST
    assert f"a response was cut: GET /v2/a/b/blobs/{DIGEST}: " in caplog.text


async def test_a_client_that_is_gone_ends_it(
    s3_settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is asked again and again, nobody waits for its answer in vain."""
    monkeypatch.setattr(stream, "_PAUSE", 3600.0)
    async with behind(s3_settings, Fault("cut", "get", times=1, after=CUT)) as (proxy, running):
        async with Raw(running.port) as raw:
            await raw.send(f"GET /v2/a/b/blobs/{DIGEST} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await proxy.reached.wait()
            await raw.receive()
            raw.reset()
        async with asyncio.timeout(5):
            await running.until_idle()


# ---- an object that is another one by then


def _first_half(call: Call, etag: str) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(DATA)}\r\nETag: {etag}\r\n"
        "Last-Modified: Sun, 22 Nov 2026 00:00:00 GMT\r\n\r\n"
    ).encode() + DATA[:CUT]


def _part_of(start: int, size: int = len(DATA)) -> dict[str, str]:
    return {
        "content_range": f"bytes {start}-{size - 1}/{size}",
        "last_modified": "Sun, 22 Nov 2026 00:00:00 GMT",
    }


@asynccontextmanager
async def pulling(
    answer: Callable[[Call, int], object],
) -> AsyncIterator[tuple[Server, list[Call]]]:
    """A server whose `/pull` reads from a store that breaks off once; `answer` then answers."""

    async def script(call: Call) -> None:
        if "range" not in call.headers:
            call.writer.write(_first_half(call, '"first"'))
            await call.writer.drain()
            call.writer.close()
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", call.headers["range"])
        assert found is not None
        assert call.headers["if-match"] == '"first"'
        await answer(call, int(found[1]))  # type: ignore[misc]
        call.writer.close()

    async with serve(script) as stub:
        store = S3Store(stub.settings, Patience(stall=2.0, answer=5.0))

        async def pull(request: Request) -> Response:
            body = await BlobStream.open(store, "blobs/x")
            assert body is not None
            return Response(200, body=body)

        try:
            async with listening(pull=pull) as server:
                yield server, stub.calls
        finally:
            await store.close()


async def _same(call: Call, start: int) -> None:
    await call.answer(206, DATA[start:], etag='"first"', **_part_of(start))


async def _precondition(call: Call, start: int) -> None:
    await call.error(412, "PreconditionFailed")


async def _ignored(call: Call, start: int) -> None:
    await call.answer(206, bytes(len(DATA) - start), etag='"second"', **_part_of(start))


async def _longer(call: Call, start: int) -> None:
    size = len(DATA) + 1
    await call.answer(206, bytes(size - start), etag='"first"', **_part_of(start, size))


async def _gone(call: Call, start: int) -> None:
    await call.error(404, "NoSuchKey")


async def test_the_same_object_is_read_on() -> None:
    async with pulling(_same) as (server, calls), server.client() as client:
        assert (await client.request("GET", "/pull")).body == DATA
        assert len(calls) == 2


@pytest.mark.parametrize("answer", [_precondition, _ignored, _longer, _gone])
async def test_no_bytes_of_another_object_follow(
    answer: Callable[[Call, int], object], caplog: pytest.LogCaptureFixture
) -> None:
    async with pulling(answer) as (server, _), Raw(server.port) as raw:
        await raw.send(b"GET /pull HTTP/1.1\r\nHost: a\r\n\r\n")
        body = (await raw.receive_all()).partition(b"\r\n\r\n")[2]
        assert DATA.startswith(body)
        assert len(body) < len(DATA)
        await server.until_quiet()
        assert server.lines[0][:2] == ("/pull", 502)
    assert "blobs/x" in caplog.text


# ---- what an operator is told


@pytest.mark.parametrize("place", ["directory"], indirect=True)
async def test_a_disk_that_fails_under_sendfile(
    running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_PAUSE", 0.001)
    assert (await put_blob(running.port, DATA)).status == 201
    before = dict(metrics.requests)
    real = BlobStream.fileno
    bad = os.open("/proc/self/mem", os.O_RDONLY)  # EIO by the kernel at its beginning
    try:
        monkeypatch.setattr(BlobStream, "fileno", lambda _: bad)
        assert await cut_pull(running.port) == b""
    finally:
        os.close(bad)
    monkeypatch.setattr(BlobStream, "fileno", real)
    await running.until_idle()
    counted = {key: n - before.get(key, 0) for key, n in metrics.requests.items()}
    assert counted["blob", "GET", 502] == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert f"{KEY}: " in line
    assert "Input/output error" in line


async def test_a_client_that_leaves_counts_as_one(running: Running) -> None:
    assert (await put_blob(running.port, DATA)).status == 201
    before = dict(metrics.requests)
    async with Raw(running.port, receive_buffer=4096) as raw:
        await raw.send(f"GET /v2/a/b/blobs/{DIGEST} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await raw.receive()
        raw.reset()
    await running.until_idle()
    counted = {key: n - before.get(key, 0) for key, n in metrics.requests.items()}
    assert {key: n for key, n in counted.items() if n} == {("blob", "GET", 499): 1}


@pytest.mark.parametrize("rst", [True, False], ids=["rst", "fin"])
async def test_a_push_that_its_client_ends_is_aborted(running: Running, rst: bool) -> None:
    before, pushes = dict(metrics.requests), dict(metrics.pushes)
    received = metrics.bytes_received
    head = f"PUT /v2/a/b/blobs/{DIGEST} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(DATA)}\r\n\r\n"
    async with Raw(running.port) as raw:
        await raw.send(head.encode() + DATA[:MIB])
        await eventually(lambda: metrics.bytes_received - received >= MIB)
        if rst:
            raw.reset()
        else:
            raw.finish()
            assert b"SIZE_INVALID" in await raw.receive_all()
        await running.until_idle()
    assert metrics.pushes["aborted"] - pushes["aborted"] == 1
    assert metrics.pushes["size_invalid"] == pushes["size_invalid"]
    status = 499 if rst else 400
    assert metrics.requests["blob", "PUT", status] - before.get(("blob", "PUT", status), 0) == 1
    assert metrics.requests.get(("blob", "PUT", 500)) == before.get(("blob", "PUT", 500))
