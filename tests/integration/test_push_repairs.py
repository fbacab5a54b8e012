"""A push of the right bytes over a damaged blob stores them again, where the damage can be seen."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from epoch.config import S3Settings
from epoch.metrics import metrics
from tests.tools.aged import Aged
from tests.tools.client import Answer, Client, digest_of, get_blob, head, pieces, put_blob, request
from tests.tools.failing import Failing
from tests.tools.fixtures import open_place
from tests.tools.running import PART, Running, eventually, serving
from tests.tools.sessions import Session, push

DATA = random.Random(18).randbytes(PART + 33)


async def _whole(port: int, data: bytes) -> Answer:
    return await put_blob(port, data)


async def _chunked(port: int, data: bytes) -> Answer:
    return await put_blob(port, data, body=pieces(data, 70_000))


async def _post(port: int, data: bytes) -> Answer:
    return await request(port, "POST", f"/v2/a/b/blobs/uploads/?digest={digest_of(data)}", data)


async def _containerd(port: int, data: bytes) -> Answer:
    return await (await Session.begin(port)).close(digest_of(data), data)


async def _chunked_put(port: int, data: bytes) -> Answer:
    return await (await Session.begin(port)).close(digest_of(data), pieces(data, 70_000))


async def _last_in_put(port: int, data: bytes) -> Answer:
    session = await Session.begin(port)
    assert (await session.patch(data[:-10])).status == 202
    return await session.close(digest_of(data), data[-10:])


Way = Callable[[int, bytes], Awaitable[Answer]]
WAYS: list[Way] = [_whole, _chunked, _post, _containerd, _chunked_put, _last_in_put, push]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("size", [1000, PART + 33])
async def test_a_blob_of_another_size_is_stored_again(
    running: Running, way: Way, size: int
) -> None:
    data = DATA[:size]
    digest = digest_of(data)
    key = f"blobs/sha256/{digest[7:]}"
    for damaged in (data[:-1], data + b"!", b"", data[: len(data) // 2]):
        await running.store.put(key, damaged)
        assert (await way(running.port, data)).status == 201
        assert (await get_blob(running.port, digest)).digest == digest
        # Now it is found.
        assert (await way(running.port, data)).status == 201
        assert (await get_blob(running.port, digest)).digest == digest


@pytest.mark.parametrize("size", [1000, PART + 33])
async def test_a_chunked_push_replaces_what_is_there(running: Running, size: int) -> None:
    """Its length is known too late to compare it; so it heals rot of the same length too."""
    data = DATA[:size]
    digest = digest_of(data)
    await running.store.put(f"blobs/sha256/{digest[7:]}", data[:-1] + b"!")
    assert (await _chunked(running.port, data)).status == 201
    assert (await get_blob(running.port, digest)).digest == digest


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
async def test_what_was_removed_is_stored_again(place: S3Settings | Path, way: Way) -> None:
    """As `epoch verify` removes what is damaged: nothing in the process remembers that it was
    there, and pinned."""
    data = DATA[:1000]
    digest = digest_of(data)
    key = f"blobs/sha256/{digest[7:]}"
    store = Aged(open_place(place))
    async with serving(store, leaves=True) as running:
        for _ in range(2):
            assert (await way(running.port, data)).status == 201
            store.older(100_000, key)
            assert (await put_blob(running.port, data)).status == 201
            assert [key for key in await running.keys() if key.startswith("_pins/")]
            await store.delete(key)
        assert (await way(running.port, data)).status == 201
        assert (await get_blob(running.port, digest)).digest == digest
    await store.inner.close()


@pytest.mark.parametrize("size", [1000, PART + 33])
async def test_a_long_push_is_pinned_just_before_it_is_visible(
    place: S3Settings | Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before its last part is stored, which may take long in itself."""
    monkeypatch.setattr("epoch.upload.pushes.LONGEST", 0.0)
    store = Failing(open_place(place))
    async with serving(store.as_store) as running:
        store.fail(0)
        assert (await put_blob(running.port, DATA[:size])).status == 201
        written = [call for call in store.calls if call.startswith(("put", "complete"))]
        parts = ["put_part", "put_part", "put", "complete_multipart"]
        assert written == (parts if size > PART else ["put", "put"])
        assert [key for key in await running.keys() if key.startswith("_pins/")]
    await store.store.close()


@pytest.mark.parametrize("way", [_containerd, _last_in_put], ids=lambda way: way.__name__)
async def test_a_repeated_closing_put_of_a_blob_that_was_removed(
    running: Running, way: Way
) -> None:
    """It is 201 only while the blob is there."""
    data = DATA[:1000]
    digest = digest_of(data)
    key = f"blobs/sha256/{digest[7:]}"
    for damaged in (None, data[:-1]):
        session = await Session.begin(running.port)
        at = 500 if way is _last_in_put else 0
        if at:
            assert (await session.patch(data[:at])).status == 202
        for _ in range(2):
            assert (await session.close(digest, data[at:])).status == 201
        await running.store.delete(key)
        if damaged is not None and at:
            await running.store.put(key, damaged)
        assert (await session.close(digest, data[at:])).refusal == (404, "BLOB_UPLOAD_UNKNOWN")
        assert (await way(running.port, data)).status == 201
        assert (await get_blob(running.port, digest)).digest == digest


async def test_an_existing_blob_that_is_removed_during_a_long_push(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes were not kept, so the client has to send them again."""
    monkeypatch.setattr("epoch.upload.pushes.LONGEST", 0.0)
    data = DATA[:100_000]
    digest = digest_of(data)
    assert (await put_blob(running.port, data)).status == 201
    received = metrics.bytes_received + 50_000
    async with Client(running.port) as client:
        await client.send(head("PUT", f"/v2/a/b/blobs/{digest}", data) + data[:50_000])
        await eventually(lambda: metrics.bytes_received == received)
        await running.store.delete(f"blobs/sha256/{digest[7:]}")
        await client.send(data[50_000:])
        assert (await client.answer()).refusal == (503, "UNAVAILABLE")
    assert (await put_blob(running.port, data)).status == 201
    assert (await get_blob(running.port, digest)).digest == digest
