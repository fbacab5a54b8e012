"""Clients that cut, pause or fall silent: nothing stays, and nobody else suffers."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epoch.metrics import metrics
from epoch.store.directory.store import DirectoryStore
from tests.tools.client import Client, digest_of, encode_chunk, get_blob, head, put_blob
from tests.tools.running import PART, Running, eventually, serving

DATA = random.Random(11).randbytes(4 * PART)
SMALL = DATA[:200]
AT_ONCE = 64


@pytest.fixture
async def tight(tmp_path: Path) -> AsyncIterator[Running]:
    """A server whose budget holds eight parts."""
    store = DirectoryStore(tmp_path / "store", fsync=False)
    await store.check()
    async with serving(store, budget=8 * PART) as running:
        yield running


async def _cut(running: Running, raw: bytes, *, rst: bool) -> None:
    async with Client(running.port) as client:
        await client.send(raw)
        if rst:
            client.reset()
        else:
            client.close()


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("place", ["directory"], indirect=True)
async def test_cut_after_every_byte(running: Running, rst: bool, chunked: bool) -> None:
    digest = digest_of(SMALL)
    target = f"/v2/a/b/blobs/{digest}"
    if chunked:
        raw = head("PUT", target, [SMALL])
        raw += encode_chunk(SMALL[:77]) + encode_chunk(SMALL[77:]) + b"0\r\n\r\n"
    else:
        raw = head("PUT", target, SMALL) + SMALL
    gate = asyncio.Semaphore(AT_ONCE)

    async def cut(count: int) -> None:
        async with gate:
            await _cut(running, raw[:count], rst=rst)

    await asyncio.gather(*(cut(count) for count in range(len(raw))))
    await eventually(lambda: not running.service.connections)
    await running.assert_holds_nothing()
    assert await running.keys() == []
    assert (await put_blob(running.port, SMALL)).status == 201


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
async def test_cut_around_the_ends_of_parts(running: Running, rst: bool) -> None:
    """Also while a part is on its way to the store."""
    data = DATA[: 2 * PART + 5]
    raw = head("PUT", f"/v2/a/b/blobs/{digest_of(data)}", data)
    start = len(raw)
    raw += data
    for offset in (
        1,
        PART - 1,
        PART,
        PART + 1,
        2 * PART - 1,
        2 * PART,
        2 * PART + 1,
        len(data) - 1,
    ):
        await _cut(running, raw[: start + offset], rst=rst)
    await eventually(lambda: not running.service.connections)
    await running.assert_holds_nothing()
    assert await running.keys() == []


async def test_cut_after_the_last_byte_is_stored_all_the_same(running: Running) -> None:
    data = DATA[: PART + 5]
    before = metrics.pushes["created"]
    raw = head("PUT", f"/v2/a/b/blobs/{digest_of(data)}", data) + data
    async with Client(running.port) as client:
        await client.send(raw)
        client.finish()
    await eventually(lambda: metrics.pushes["created"] == before + 1)
    assert (await get_blob(running.port, digest_of(data))).digest == digest_of(data)


async def test_pausing_client(tight: Running) -> None:
    """Pauses of more than a second, at places that hurt: the push goes on where it was."""
    data = DATA[: PART + 100]
    places = [0, PART - 1, PART, len(data)]
    async with Client(tight.port) as client:
        await client.send(head("PUT", f"/v2/a/b/blobs/{digest_of(data)}", data))
        for start, stop in itertools.pairwise(places):
            await asyncio.sleep(1.2)  # the pause is what is tested
            await client.send(data[start:stop])
        assert (await client.answer()).status == 201


async def test_silent_clients_hold_no_empty_buffer(tight: Running) -> None:
    clients = [Client(tight.port) for _ in range(20)]
    for client in clients:
        await client.__aenter__()
        await client.send(head("PUT", f"/v2/a/b/blobs/{digest_of(DATA)}", DATA))
    await eventually(lambda: len(tight.service.tasks) == 20)
    await eventually(lambda: tight.budget.pool.lent == 0)
    assert (await put_blob(tight.port, DATA)).status == 201
    for client in clients:
        client.reset()


async def test_silent_clients_do_not_starve_active_ones(tight: Running) -> None:
    """Twenty clients send one byte each and then nothing; there are eight whole buffers, of which
    they have half; the others have small ones."""
    silent = [Client(tight.port) for _ in range(20)]
    for client in silent:
        await client.__aenter__()
        raw = head("PUT", f"/v2/a/b/blobs/{digest_of(DATA)}", DATA)
        await client.send(raw + DATA[:1])
    await eventually(lambda: len(tight.budget.holders) == len(silent))
    blobs = [DATA[number:] for number in range(6)]
    answers = await asyncio.gather(*(put_blob(tight.port, blob, limit=60) for blob in blobs))
    assert [answer.status for answer in answers] == [201] * len(blobs)
    for client in silent:
        client.reset()
        await client.__aexit__()


@pytest.mark.alone
async def test_sixteen_pushes_advance_at_the_same_pace(tmp_path: Path) -> None:
    """Four buffers for all: the slowest is done within twice the time of the fastest."""
    store = DirectoryStore(tmp_path / "store", fsync=False)
    await store.check()
    blobs = [DATA[number:] for number in range(16)]
    digests = [digest_of(blob) for blob in blobs]
    async with serving(store, budget=4 * PART) as running:
        started = time.monotonic()

        async def push(number: int) -> float:
            answer = await put_blob(running.port, blobs[number], digests[number], limit=60)
            assert answer.status == 201
            return time.monotonic() - started

        seconds = await asyncio.gather(*(push(number) for number in range(16)))
    assert max(seconds) <= 2 * min(seconds), sorted(seconds)
