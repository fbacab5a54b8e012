"""Pushes of intact blobs, through a real process and a real store, byte for byte."""

from __future__ import annotations

import asyncio
import random

import pytest

from epoch.metrics import metrics
from tests.tools.client import (
    Answer,
    Client,
    digest_of,
    get_blob,
    has_blob,
    head,
    pieces,
    put_blob,
    request,
)
from tests.tools.running import PART, Running, eventually
from tests.tools.server import Server

SIZES = [0, 1, 65535, 65536, PART - 1, PART, PART + 1, 3 * PART + 17]
NOISE = random.Random(7).randbytes(3 * PART + 17)


def blob_of(size: int) -> bytes:
    """`size` bytes that differ in every part."""
    return NOISE[:size]


async def push(port: int, way: str, data: bytes, digest: str, chunk: int | None) -> Answer:
    """Push in one of the three ways, chunked where a chunk size is given."""
    body = data if chunk is None else pieces(data, chunk)
    if way == "put":
        return await request(port, "PUT", f"/v2/a/b/blobs/{digest}", body)
    if way == "post":
        return await request(port, "POST", f"/v2/a/b/blobs/uploads/?digest={digest}", body)
    begun = await request(port, "POST", "/v2/a/b/blobs/uploads/", b"")
    assert begun.status == 202
    location = begun.headers["location"]
    assert location.startswith("/v2/a/b/blobs/uploads/")
    mark = "&" if "?" in location else "?"
    return await request(port, "PUT", f"{location}{mark}digest={digest}", body)


@pytest.mark.parametrize(
    ("way", "algorithm"),
    [("put", "sha256"), ("put", "sha512"), ("post", "sha256"), ("post-put", "sha256")],
)
async def test_every_size_both_framings(server: Server, way: str, algorithm: str) -> None:
    for size in SIZES:
        data = blob_of(size)
        # Chunked pushes carry other bytes, or they would find the blob.
        for chunk, content in ((None, data), (70_001, data[::-1]), (PART, data[1:] + b"!")):
            digest = digest_of(content, algorithm)
            answer = await push(server.port, way, content, digest, chunk)
            assert answer.status == 201, (size, chunk, answer)
            assert answer.headers["docker-content-digest"] == digest
            assert answer.headers["location"] == f"/v2/a/b/blobs/{digest}"
            pulled = await get_blob(server.port, digest)
            assert pulled.status == 200
            assert pulled.digest == digest_of(content), (size, chunk)


@pytest.mark.parametrize("chunk", [1, 2, 15, 16, 17, 4095, 4096, 4097, 65536])
async def test_chunk_sizes(running: Running, chunk: int) -> None:
    data = blob_of(min(chunk * 3000, PART + 5))
    answer = await put_blob(running.port, data, body=pieces(data, chunk))
    assert answer.status == 201
    assert (await get_blob(running.port, digest_of(data))).digest == digest_of(data)


@pytest.mark.parametrize("size", [PART, 2 * PART])
async def test_chunked_body_of_whole_parts_has_no_empty_part(running: Running, size: int) -> None:
    """Its end comes when the last part is already on its way."""
    data, before = blob_of(size), metrics.parts
    async with Client(running.port) as client:
        target = f"/v2/a/b/blobs/{digest_of(data)}"
        await client.send(head("PUT", target, [data]) + b"%x\r\n" % size + data + b"\r\n")
        await eventually(lambda: metrics.parts - before >= size // PART)
        await client.send(b"0\r\n\r\n")
        assert (await client.answer()).status == 201
    assert metrics.parts - before == size // PART
    assert (await get_blob(running.port, digest_of(data))).digest == digest_of(data)


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_a_request_in_pieces(running: Running, piece: int) -> None:
    data = blob_of(3000)
    raw = head("PUT", f"/v2/a/b/blobs/{digest_of(data)}", data) + data
    async with Client(running.port) as client:
        for part in pieces(raw, piece):
            await client.send(part)
            await asyncio.sleep(0)
        assert (await client.answer()).status == 201
    assert (await get_blob(running.port, digest_of(data))).digest == digest_of(data)


async def test_ranges_across_parts(server: Server) -> None:
    data = blob_of(3 * PART + 17)
    digest = digest_of(data)
    assert (await put_blob(server.port, data)).status == 201
    last = len(data) - 1
    for first, end in ((0, 0), (PART - 1, PART), (PART, 2 * PART - 1), (last - 16, last)):
        answer = await get_blob(server.port, digest, f"Range: bytes={first}-{end}")
        assert answer.status == 206
        assert answer.headers["content-range"] == f"bytes {first}-{end}/{len(data)}"
        assert answer.digest == digest_of(data[first : end + 1])


async def test_bare_hex_is_sha256(running: Running) -> None:
    data = blob_of(1000)
    digest = digest_of(data)
    target = f"/v2/a/b/blobs/{digest.removeprefix('sha256:')}"
    answer = await request(running.port, "PUT", target, data)
    assert answer.status == 201
    assert answer.headers["docker-content-digest"] == digest
    assert await has_blob(running.port, digest)


async def test_keep_alive_and_pipelining(running: Running) -> None:
    """Three pushes and a pull on one connection, sent without waiting for an answer."""
    blobs = [blob_of(size) for size in (10, 70_000, PART + 3)]
    async with Client(running.port) as client:
        raw = b""
        for data in blobs:
            raw += head("PUT", f"/v2/a/b/blobs/{digest_of(data)}", data) + data
        raw += head("GET", f"/v2/a/b/blobs/{digest_of(blobs[2])}", None)
        sending = asyncio.create_task(client.send(raw))
        for _ in blobs:
            assert (await client.answer()).status == 201
        assert (await client.answer()).digest == digest_of(blobs[2])
        await sending


async def test_half_closed_client_gets_its_answer(running: Running) -> None:
    data = blob_of(PART + 1)
    async with Client(running.port) as client:
        await client.send(head("PUT", f"/v2/a/b/blobs/{digest_of(data)}", data) + data)
        client.finish()
        assert (await client.answer()).status == 201
        assert await client.at_end()


async def test_concurrent_pushes_of_different_blobs(running: Running) -> None:
    """More than the budget holds at once."""
    blobs = [blob_of(PART + 1000 + number) for number in range(30)]
    answers = await asyncio.gather(*(put_blob(running.port, data) for data in blobs))
    assert [answer.status for answer in answers] == [201] * len(blobs)
    await running.assert_holds_nothing()
    for data in blobs:
        assert (await get_blob(running.port, digest_of(data))).digest == digest_of(data)
