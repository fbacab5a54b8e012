"""Blobs come back whole, whichever way their bytes take: small, large, in part, many at once."""

from __future__ import annotations

import asyncio
import random

import pytest

from epoch.config import MIB
from epoch.metrics import metrics
from tests.tools.client import Client, digest_of, get_blob, put_blob
from tests.tools.running import Running

DATA = random.Random(7).randbytes(12 * MIB)


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1, 12 * MIB])
async def test_one_connection_pulls_again_and_again(running: Running, size: int) -> None:
    data = DATA[-size:]
    digest = digest_of(data)
    target = f"/v2/a/b/blobs/{digest}"
    assert (await put_blob(running.port, data)).status == 201
    before = metrics.bytes_sent
    async with Client(running.port) as client:
        for _ in range(3):
            answer = await client.request("GET", target)
            assert (answer.status, answer.digest) == (200, digest)
        head = await client.request("HEAD", target)
        assert head.headers["content-length"] == str(size)
    assert metrics.bytes_sent - before == 3 * size


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 12 * MIB - 1), (5, MIB + 4), (5, MIB + 5), (7 * MIB, 12 * MIB)]
)
async def test_ranges(running: Running, start: int, stop: int) -> None:
    digest = digest_of(DATA)
    assert (await put_blob(running.port, DATA)).status == 201
    answer = await get_blob(running.port, digest, f"Range: bytes={start}-{stop - 1}")
    assert answer.status == 206
    assert answer.digest == digest_of(DATA[start:stop])


async def test_many_pulls_at_once(running: Running) -> None:
    blobs = [DATA[number : number + 4 * MIB] for number in range(4)]
    digests = [digest_of(blob) for blob in blobs]
    for blob in blobs:
        assert (await put_blob(running.port, blob)).status == 201
    answers = await asyncio.gather(*(get_blob(running.port, digest) for digest in digests * 8))
    assert [answer.digest for answer in answers] == digests * 8
