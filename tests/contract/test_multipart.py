"""Multipart uploads: every store takes parts in any order and shows all or nothing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from epoch.store.base import Multipart, Part, Store, StoreError

_MIB = 1024 * 1024
PART = 5 * _MIB


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


async def send(
    store: Store, upload: Multipart, data: bytes, order: Sequence[int], size: int = PART
) -> list[Part]:
    """Send the parts of `data` in `order`, all at once; returns them in order of number."""

    async def one(index: int) -> Part:
        piece = bytearray(data[index * size : (index + 1) * size])
        part = await store.put_part(upload, index + 1, index * size, piece)
        assert part.number == index + 1
        assert part.size == len(piece)
        piece.append(0)  # BufferError while a view of it is out
        return part

    parts = await asyncio.gather(*(one(index) for index in order))
    return sorted(parts, key=lambda part: part.number)


async def uploads(store: Store, prefix: str) -> list[Multipart]:
    return [upload async for upload, _ in store.list_multiparts(prefix)]


async def test_parts_in_any_order(store: Store) -> None:
    data = noise(3 * PART + 12345)
    upload = await store.create_multipart("blobs/sha256/aa")
    parts = await send(store, upload, data, [2, 0, 3, 1])
    assert await store.head("blobs/sha256/aa") is None
    assert [info async for info in store.list("")] == []
    await store.complete_multipart(upload, parts)
    assert await store.get("blobs/sha256/aa", len(data)) == data
    assert await uploads(store, "blobs/sha256/aa") == []


async def test_part_sent_again_replaces(store: Store) -> None:
    upload = await store.create_multipart("k")
    await store.put_part(upload, 1, 0, noise(PART, 1))
    part = await store.put_part(upload, 1, 0, noise(PART, 2))
    last = await store.put_part(upload, 2, PART, b"end")
    await store.complete_multipart(upload, [part, last])
    assert await store.get("k", 2 * PART) == noise(PART, 2) + b"end"


async def test_complete_replaces_an_object(store: Store) -> None:
    await store.put("k", b"before")
    upload = await store.create_multipart("k")
    part = await store.put_part(upload, 1, 0, b"after")
    assert await store.get("k", 10) == b"before"
    await store.complete_multipart(upload, [part])
    assert await store.get("k", 10) == b"after"


async def test_complete_twice(store: Store) -> None:
    data = noise(PART + 1)
    upload = await store.create_multipart("k")
    parts = await send(store, upload, data, [0, 1])
    await store.complete_multipart(upload, parts)
    await store.complete_multipart(upload, parts)
    assert await store.get("k", len(data)) == data


async def test_another_process_goes_on(store: Store) -> None:
    """Key and upload id are all that is needed."""
    data = noise(2 * PART)
    upload = await store.create_multipart("k")
    parts = await send(store, upload, data, [0])
    copy = Multipart(str(upload.key), str(upload.upload_id))
    assert copy in await uploads(store, "k")
    parts += await send(store, copy, data, [1])
    await store.complete_multipart(copy, parts)
    assert await store.get("k", len(data)) == data


async def test_two_uploads_of_one_key(store: Store) -> None:
    first = await store.create_multipart("k")
    second = await store.create_multipart("k")
    assert first != second
    parts = [await store.put_part(first, 1, 0, b"first")]
    others = [await store.put_part(second, 1, 0, b"second")]
    await store.complete_multipart(first, parts)
    assert await store.get("k", 10) == b"first"
    await store.complete_multipart(second, others)
    assert await store.get("k", 10) == b"second"


async def test_abort(store: Store) -> None:
    upload = await store.create_multipart("k")
    await store.put_part(upload, 1, 0, b"part")
    await store.abort_multipart(upload)
    await store.abort_multipart(upload)
    assert await uploads(store, "k") == []
    assert await store.head("k") is None
    with pytest.raises(StoreError):
        await store.put_part(upload, 2, 4, b"more")


async def test_complete_after_abort(store: Store) -> None:
    upload = await store.create_multipart("k")
    part = await store.put_part(upload, 1, 0, b"part")
    await store.abort_multipart(upload)
    with pytest.raises(StoreError):
        await store.complete_multipart(upload, [part])
    assert await store.head("k") is None


async def test_abort_while_parts_are_under_way(store: Store) -> None:
    upload = await store.create_multipart("k")
    buffers = [bytearray(noise(PART, seed)) for seed in range(4)]
    tasks = [
        asyncio.create_task(store.put_part(upload, number, (number - 1) * PART, buffer))
        for number, buffer in enumerate(buffers, 1)
    ]
    await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for buffer in buffers:
        buffer.append(0)  # BufferError while a view of it is out
    await store.abort_multipart(upload)
    assert await uploads(store, "k") == []
    assert await store.head("k") is None


async def test_list_multiparts(store: Store) -> None:
    before = time.time()
    upload = await store.create_multipart("blobs/sha256/ab")
    found = [entry async for entry in store.list_multiparts("blobs/sha256/ab")]
    assert [entry[0] for entry in found] == [upload]
    assert before - 5 < found[0][1] < time.time() + 5
    assert await uploads(store, "blobs/sha256/ac") == []


async def test_gap_is_refused(store: Store) -> None:
    upload = await store.create_multipart("k")
    part = await store.put_part(upload, 1, 0, noise(PART))
    forged = replace(part, number=2)
    with pytest.raises(StoreError):
        await store.complete_multipart(upload, [part, forged])
    assert await store.head("k") is None
