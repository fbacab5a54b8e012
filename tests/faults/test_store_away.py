"""A store that is away for a while: pushes wait for it, and end in 201."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import pytest

from epoch.config import MIB, S3Settings
from epoch.store.s3.calls import Patience
from epoch.store.s3.store import S3Store
from tests.faults.proxy import Fault, Proxy, What, proxied
from tests.tools.client import Client, digest_of, get_blob, head, pieces, put_blob, request
from tests.tools.running import PART, eventually, serving
from tests.tools.seaweedfs import SeaweedFS
from tests.tools.server import Server

LARGE: Final = random.Random(23).randbytes(128 * MIB)
AWAY_SECONDS: Final = 10.0
LIMIT: Final = 120.0


@pytest.fixture
def own_store() -> Iterator[SeaweedFS]:
    """One that no other test uses."""
    store = SeaweedFS()
    try:
        store.start()
        store.wait()
        yield store
    finally:
        store.remove()


async def _push_slowly(port: int, method: str, target: str, data: bytes) -> int:
    """Send a body at 16 MiB/s at most; the status."""
    async with Client(port) as client:
        await client.send(head(method, target, data))
        for piece in pieces(data, MIB):
            await client.send(piece)
            await asyncio.sleep(0.06)
        return (await client.answer(limit=LIMIT)).status


async def _push_in_a_session(port: int, data: bytes) -> int:
    """POST, PATCH at the same pace, and a closing PUT."""
    begun = await request(port, "POST", "/v2/a/b/blobs/uploads/")
    location = begun.headers["location"]
    assert await _push_slowly(port, "PATCH", location, data) == 202
    target = f"{location}?digest={digest_of(data)}"
    return (await request(port, "PUT", target, b"", limit=LIMIT)).status


async def _parts_stored(server: Server) -> int:
    """How many parts the store has taken."""
    text = (await request(server.port, "GET", "/metrics")).body.decode()
    (line,) = [each for each in text.splitlines() if each.startswith("epoch_part_seconds_count")]
    return int(float(line.split()[1]))


async def test_pushes_outlive_a_restart_of_the_store(own_store: SeaweedFS) -> None:
    """It is killed amid pushes of 128 MiB each, and comes back ten seconds later with its data."""
    settings = replace(own_store.settings, prefix="away/")
    server = Server(settings, {"EPOCH_PART_SIZE": "5MiB", "EPOCH_BUFFER_BUDGET": "64MiB"})
    other = LARGE[::-1]
    try:
        target = f"/v2/a/b/blobs/{digest_of(LARGE)}"
        pushes = [
            asyncio.create_task(_push_slowly(server.port, "PUT", target, LARGE)),
            asyncio.create_task(_push_in_a_session(server.port, other)),
        ]
        async with asyncio.timeout(60):
            while await _parts_stored(server) < 6:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.05)
        own_store.kill()
        await asyncio.sleep(AWAY_SECONDS)
        assert not any(push.done() for push in pushes)
        own_store.start()
        assert await asyncio.gather(*pushes) == [201, 201]
        for data in (LARGE, other):
            assert (await get_blob(server.port, digest_of(data))).digest == digest_of(data)
        assert "calls to it are repeated" in server.log()
        server.stop()
    finally:
        server.kill()


@asynccontextmanager
async def _failing_for(
    settings: S3Settings, what: What, seconds: float
) -> AsyncIterator[tuple[Proxy, S3Settings]]:
    """A proxy that is fine until a part has gone through it, then fails for so long."""
    async with proxied(settings) as (proxy, through):

        async def strike() -> None:
            await eventually(lambda: proxy.calls["part"] >= 2)
            proxy.faults = [Fault(what)]
            await asyncio.sleep(seconds)
            proxy.faults = []

        striking = asyncio.create_task(strike())
        yield proxy, through
        await striking


@pytest.mark.parametrize("what", ["slow-down", pytest.param("reset", marks=pytest.mark.slow)])
async def test_pushes_outlive_a_store_that_refuses(s3_settings: S3Settings, what: What) -> None:
    """For eight seconds it takes nothing; what is asked of it meanwhile stays within the budget."""
    data = LARGE[: 40 * MIB]
    async with _failing_for(s3_settings, what, 8.0) as (proxy, through):
        store = S3Store(through)
        await store.check()
        async with serving(store, budget=32 * MIB, alone=False) as running:
            begun = time.monotonic()
            answer = await put_blob(running.port, data, limit=LIMIT)
            assert answer.status == 201
            assert time.monotonic() - begun >= 8.0
            assert proxy.reached.is_set()
            assert (await get_blob(running.port, digest_of(data))).digest == digest_of(data)
    wanted = len(data) // PART + 6
    assert proxy.calls["any"] <= wanted + 100 + 10 * 10


async def test_a_push_whose_patience_is_over_fails(s3_settings: S3Settings) -> None:
    """It holds nothing afterwards, and the next one is as good as ever."""
    data = LARGE[: 12 * MIB]
    patience = Patience(stall=2.0, answer=2.0, slow_answer=2.0, repeat=2.0)
    async with _failing_for(s3_settings, "slow-down", 6.0) as (_, through):
        store = S3Store(through, patience)
        await store.check()
        async with serving(store, budget=32 * MIB, leaves=True, alone=False) as running:
            begun = time.monotonic()
            answer = await put_blob(running.port, data, limit=LIMIT)
            assert answer.refusal == (503, "UNAVAILABLE")
            assert 2.0 <= time.monotonic() - begun < 8.0
            await running.until_idle()
            assert running.budget.pool.lent == 0
            await asyncio.sleep(6.0)
            assert (await put_blob(running.port, data, limit=LIMIT)).status == 201
    direct = S3Store(s3_settings)
    for upload in [upload async for upload, _ in direct.list_multiparts("")]:
        await direct.abort_multipart(upload)
    await direct.close()
