"""Pushes of a blob that is there already, or is being pushed by others too."""

from __future__ import annotations

import asyncio
import random

import pytest

from epoch.metrics import metrics
from tests.tools.client import Client, digest_of, get_blob, has_blob, head, pieces, put_blob
from tests.tools.running import PART, Running

DATA = random.Random(9).randbytes(PART + 33)


@pytest.mark.parametrize("size", [0, 1000, PART + 1])
async def test_existing_blob_is_verified_but_not_stored_again(running: Running, size: int) -> None:
    data = DATA[:size]
    digest = digest_of(data)
    assert (await put_blob(running.port, data)).status == 201
    (before,) = [info async for info in running.store.list("")]
    parts, outcomes = metrics.parts, dict(metrics.pushes)
    for _ in range(2):
        assert (await put_blob(running.port, data)).status == 201
    assert metrics.pushes["existing"] == outcomes["existing"] + 2
    assert metrics.parts == parts
    assert [info async for info in running.store.list("")] == [before]
    assert (await get_blob(running.port, digest)).digest == digest


@pytest.mark.parametrize("size", [1000, PART + 1])
async def test_wrong_bytes_for_an_existing_blob(running: Running, size: int) -> None:
    data = DATA[:size]
    digest = digest_of(data)
    assert (await put_blob(running.port, data)).status == 201
    (before,) = [info async for info in running.store.list("")]
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    for wrong in (flipped, data + b"!", data[:-1], b""):
        for body in (None, pieces(wrong, 70_000)):
            answer = await put_blob(running.port, wrong, digest, body=body)
            assert answer.refusal == (400, "DIGEST_INVALID")
    await running.assert_holds_nothing()
    assert [info async for info in running.store.list("")] == [before]
    assert (await get_blob(running.port, digest)).digest == digest


async def _cut(port: int, data: bytes, digest: str, keep: int, *, rst: bool) -> None:
    async with Client(port) as client:
        await client.send(head("PUT", f"/v2/a/b/blobs/{digest}", data) + data[:keep])
        if rst:
            client.reset()
        else:
            client.close()


@pytest.mark.parametrize(
    ("place", "count"),
    [("directory", 2), ("directory", 50), ("s3", 2), ("s3", 12)],
    indirect=["place"],
)
async def test_concurrent_pushes_of_one_blob(running: Running, count: int) -> None:
    """Some cut, some corrupt: every intact one is answered 201, and there is one object."""
    rng = random.Random(count)
    digest = digest_of(DATA)
    flipped = DATA[:-1] + bytes([DATA[-1] ^ 1])
    cut, corrupt, intact = [], [], []
    for number in range(count):
        name = f"repository-{number}/x"
        match number % 4:
            case 2:
                keep = rng.randrange(len(DATA))
                cut.append(_cut(running.port, DATA, digest, keep, rst=number % 8 == 2))
            case 3:
                corrupt.append(put_blob(running.port, flipped, digest, name=name, limit=60))
            case _:
                body = pieces(DATA, 300_000) if number % 2 else None
                intact.append(put_blob(running.port, DATA, digest, body=body, name=name, limit=60))
    stored, refused, _ = await asyncio.gather(
        asyncio.gather(*intact), asyncio.gather(*corrupt), asyncio.gather(*cut)
    )
    assert [answer.status for answer in stored] == [201] * len(intact)
    assert [answer.refusal for answer in refused] == [(400, "DIGEST_INVALID")] * len(corrupt)
    await running.assert_holds_nothing()
    assert await running.keys() == [f"blobs/sha256/{digest.removeprefix('sha256:')}"]
    assert (await get_blob(running.port, digest)).digest == digest


async def test_corrupt_and_cut_pushes_alone_leave_nothing(running: Running) -> None:
    digest = digest_of(DATA)
    flipped = DATA[:-1] + bytes([DATA[-1] ^ 1])
    await asyncio.gather(
        *(put_blob(running.port, flipped, digest) for _ in range(4)),
        *(_cut(running.port, DATA, digest, len(DATA) - 1, rst=bool(n % 2)) for n in range(8)),
    )
    await running.assert_holds_nothing()
    assert not await has_blob(running.port, digest)
    assert await running.keys() == []
