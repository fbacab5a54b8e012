"""Clients that send as little as they may, beside a real server with its default settings: those
that send all they have are hardly slower for it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from epoch.config import MIB
from tests.tools.client import Client, digest_of, head, put_blob, request
from tests.tools.server import Server

pytestmark = pytest.mark.alone

DRIPPERS = 1000
DRIP = bytes(75)
PAUSE = 0.25
"""Seconds: 300 bytes a second, above the least rate that a server asks of a body."""
ROUNDS = 3
DATA = random.Random(7).randbytes(64 * MIB)
PATIENCE = 20.0
"""Seconds for a push. Where it has to wait for a dripping client, hours would not be enough."""


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many descriptors as we may have; servers that are started have them too."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2 * DRIPPERS:
        pytest.skip("needs more descriptors than are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def dripping(port: int, first: int) -> AsyncIterator[None]:
    """All of them, each amid a push of 20 MB of which `first` bytes came at once."""
    sockets: list[socket.socket] = []

    async def drip() -> None:
        while True:
            await asyncio.sleep(PAUSE)
            for each in sockets:
                with contextlib.suppress(OSError):
                    each.send(DRIP)

    async with contextlib.AsyncExitStack() as stack:
        for number in range(DRIPPERS):
            each = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            lines = (
                f"PUT /v2/slow/{number}/blobs/{digest_of(b'%d' % number)} HTTP/1.1",
                "Host: a",
                "Content-Length: 20000000",
            )
            each.sendall("\r\n".join((*lines, "", "")).encode() + bytes(first))
            each.setblocking(False)
            sockets.append(each)
            if number % 50 == 0:
                await asyncio.sleep(0)
        task = asyncio.create_task(drip())
        await asyncio.sleep(3 * PAUSE)
        try:
            yield
        finally:
            task.cancel()


async def _patch(port: int) -> None:
    """An upload in two requests, of three bytes."""
    begun = await request(port, "POST", "/v2/a/b/blobs/uploads/")
    where = begun.headers["location"]
    assert (await request(port, "PATCH", where, b"abc", limit=PATIENCE)).status == 202
    closing = f"{where}?digest={digest_of(b'abc')}"
    assert (await request(port, "PUT", closing, b"", limit=PATIENCE)).status == 201


async def _round(port: int, number: int) -> float:
    """Some large pushes and a small one at once; the seconds until all are done."""
    blobs = [b"%d %d" % (number, each) + DATA for each in range(3)]
    digests = [digest_of(blob) for blob in blobs]
    started = time.monotonic()
    pushes = (
        put_blob(port, blob, digest, limit=PATIENCE)
        for blob, digest in zip(blobs, digests, strict=True)
    )
    answers, _ = await asyncio.gather(asyncio.gather(*pushes), _patch(port))
    assert [answer.status for answer in answers] == [201] * len(blobs)
    return time.monotonic() - started


async def _median(port: int, first: int) -> float:
    return statistics.median([await _round(port, first + number) for number in range(ROUNDS)])


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(("first", "factor"), [(75, 2), (70_000, 3)], ids=["drip", "burst"])
async def test_a_thousand_slow_clients_do_not_hold_up_the_others(
    tmp_path: Path, first: int, factor: int
) -> None:
    """They send `first` bytes at once: also as many as make a client a fast one."""
    server = await asyncio.to_thread(Server, tmp_path / "store")
    try:
        await _round(server.port, 0)  # memory that was in use before
        alone = await _median(server.port, 10)
        async with dripping(server.port, first):
            beside = await _median(server.port, 20)
        assert beside <= factor * alone + 0.3, (alone, beside)
        await _gone(server.port)
        await asyncio.to_thread(server.stop)
    finally:
        server.kill()


async def _gone(port: int) -> None:
    """All memory of those that were cut is given back."""
    async with asyncio.timeout(20):
        while True:
            text = (await request(port, "GET", "/metrics")).body.decode()
            if "\nepoch_buffer_lent_bytes 0" in text:
                return
            await asyncio.sleep(0.05)


async def test_a_client_that_falls_behind_is_told(tmp_path: Path) -> None:
    """The budget holds one part: who is slow while another waits is answered, and cut."""
    settings = {"EPOCH_PART_SIZE": "5MiB", "EPOCH_BUFFER_BUDGET": "8MiB"}
    server = await asyncio.to_thread(Server, tmp_path / "store", settings)
    try:
        async with Client(server.port) as slow:
            target = f"/v2/a/b/blobs/{digest_of(DATA)}"
            await slow.send(head("PUT", target, DATA) + DATA[: 4 * MIB])
            await asyncio.sleep(0.5)
            blob = DATA[: 12 * MIB]
            assert (await put_blob(server.port, blob, limit=PATIENCE)).status == 201
            answer = await slow.answer(limit=PATIENCE)
            assert answer.refusal == (408, "UNAVAILABLE")
            assert answer.headers["retry-after"] == "30"
        await _gone(server.port)
        await asyncio.to_thread(server.stop)
    finally:
        server.kill()


async def test_what_has_come_of_a_session_is_kept_when_it_is_cut(tmp_path: Path) -> None:
    """The client asks where the upload stands, and goes on."""
    settings = {"EPOCH_PART_SIZE": "5MiB", "EPOCH_BUFFER_BUDGET": "8MiB"}
    server = await asyncio.to_thread(Server, tmp_path / "store", settings)
    data, kept = DATA[: 4 * MIB], 3 * MIB
    try:
        begun = await request(server.port, "POST", "/v2/a/b/blobs/uploads/")
        where = begun.headers["location"]
        async with Client(server.port) as slow:
            await slow.send(head("PATCH", where, data) + data[:kept])
            await asyncio.sleep(0.5)
            blob = DATA[: 12 * MIB]
            assert (await put_blob(server.port, blob, limit=PATIENCE)).status == 201
            assert (await slow.answer(limit=PATIENCE)).refusal == (408, "UNAVAILABLE")
        status = await request(server.port, "GET", where)
        assert status.headers["range"] == f"0-{kept - 1}"
        where = status.headers["location"]
        rest = f"Content-Range: {kept}-{len(data) - 1}"
        answer = await request(server.port, "PATCH", where, data[kept:], rest)
        assert answer.status == 202
        closing = f"{answer.headers['location']}?digest={digest_of(data)}"
        assert (await request(server.port, "PUT", closing, b"")).status == 201
        await asyncio.to_thread(server.stop)
    finally:
        server.kill()
