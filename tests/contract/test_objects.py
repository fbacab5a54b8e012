"""Single objects: every store puts, finds, reads, lists, moves and deletes them alike."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
import urllib.request

import pytest

from epoch.store.base import Store, StoreError
from epoch.store.directory.store import DirectoryStore


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


async def keys(store: Store, prefix: str = "", after: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix, after)]


async def read(store: Store, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
    async with store.open(key, start, stop) as reader:
        if reader is None:
            return None
        return b"".join([chunk async for chunk in reader])


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 70_000, 6 * 1024 * 1024 + 1])
async def test_put_and_get(store: Store, size: int) -> None:
    data = noise(size)
    before = time.time()
    await store.put("blobs/sha256/ab", data)
    info = await store.head("blobs/sha256/ab")
    assert info is not None
    assert (info.key, info.size) == ("blobs/sha256/ab", size)
    assert info.etag
    assert before - 5 < info.modified < time.time() + 5
    assert await store.get("blobs/sha256/ab", size) == data
    assert await read(store, "blobs/sha256/ab") == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_put_leaves_no_view(store: Store, kind: type) -> None:
    data = bytearray(noise(300_000))
    await store.put("x", data if kind is bytearray else kind(data))
    expected = bytes(data)
    data.append(1)  # BufferError while a view of it is out
    assert await store.get("x", 300_000) == expected


async def test_missing(store: Store) -> None:
    assert await store.head("no/such") is None
    assert await store.get("no/such", 10) is None
    assert await read(store, "no/such") is None
    assert await read(store, "no/such", 0, 0) is None
    await store.delete("no/such")


async def test_get_refuses_what_is_too_large(store: Store) -> None:
    await store.put("big", b"x" * 11)
    with pytest.raises(StoreError, match="11 bytes"):
        await store.get("big", 10)
    assert await store.get("big", 11) == b"x" * 11


async def test_put_replaces(store: Store) -> None:
    await store.put("k", b"first")
    first = await store.head("k")
    await store.put("k", b"other")
    second = await store.head("k")
    assert await store.get("k", 100) == b"other"
    assert first is not None
    assert second is not None
    assert first.etag != second.etag


async def test_ranges(store: Store) -> None:
    data = noise(3 * 1024 * 1024 + 17)
    await store.put("r", data)
    size = len(data)
    spans: list[tuple[int, int | None]] = [
        (0, 1),
        (0, size),
        (5, None),
        (size - 1, None),
        (1000, 1024 * 1024 + 3),
        (7, 7),
    ]
    for start, stop in spans:
        async with store.open("r", start, stop) as reader:
            assert reader is not None
            assert reader.info.size == size
            assert reader.info.key == "r"
            assert b"".join([chunk async for chunk in reader]) == data[start:stop]


async def test_reader_left_early(store: Store) -> None:
    await store.put("r", noise(8 * 1024 * 1024))
    for _ in range(3):
        async with store.open("r") as reader:
            assert reader is not None
            async for chunk in reader:
                assert chunk
                break
    assert await read(store, "r", 0, 3) == noise(8 * 1024 * 1024)[:3]


async def test_fileno_is_the_object(store: Store) -> None:
    await store.put("f", b"0123456789")
    async with store.open("f", 2, 5) as reader:
        assert reader is not None
        fd = reader.fileno()
        if fd is not None:
            assert os.pread(fd, 100, 0) == b"0123456789"
        assert b"".join([chunk async for chunk in reader]) == b"234"


async def test_list_is_in_key_order(store: Store) -> None:
    made = [
        "manifests/a-b/v1.json",
        "manifests/a/b/v1.json",
        "manifests/a/v1-rc.json",
        "manifests/a/v1.0.json",
        "manifests/a/v1.json",
        "manifests/a/_digests/sha256-00.json",
        "manifests/a.b/v1.json",
        "manifests/a0/v1.json",
        "blobs/sha256/ff",
        "catalog.json",
    ]
    for key in made:
        await store.put(key, key.encode())
    expected = sorted(made, key=str.encode)
    if not isinstance(store, DirectoryStore) and await keys(store) != expected:
        expected = sorted(made, key=lambda key: key.encode().split(b"/"))  # SeaweedFS
    assert await keys(store) == expected
    for prefix in ("manifests/", "manifests/a", "manifests/a/", "manifests/a/v1", "c", "none/"):
        assert await keys(store, prefix) == [key for key in expected if key.startswith(prefix)]
    for number, after in enumerate(expected, 1):
        assert await keys(store, "", after) == expected[number:]
        found = await keys(store, "manifests/a", after)
        assert found == [key for key in expected[number:] if key.startswith("manifests/a")]
    assert await keys(store, "", "z") == []
    assert await keys(store, "manifests/a/v1", "manifests/a/v1-a") == [
        "manifests/a/v1-rc.json",
        "manifests/a/v1.0.json",
        "manifests/a/v1.json",
    ]
    sizes = {info.key: info.size async for info in store.list("")}
    assert sizes == {key: len(key) for key in made}


async def test_fetch(store: Store) -> None:
    await store.put("f", b"1234")
    assert await store.fetch("f", 4) == (await store.head("f"), b"1234")
    assert await store.fetch("none", 4) is None
    with pytest.raises(StoreError):
        await store.fetch("f", 3)


async def test_folder(store: Store) -> None:
    for key in ("f/b", "f/a-b", "f/a/c", "f/a/d/e", "f/b-c/d", "fa", "g"):
        await store.put(key, key.encode())

    async def folder(prefix: str) -> list[tuple[str, int]]:
        found = [info async for info in store.list_folder(prefix)]
        names = sorted(await store.names(prefix))
        assert names == sorted(info.key.removeprefix(prefix) for info in found)
        return [(info.key, info.size) for info in found]

    assert await folder("f/") == [("f/a-b", 5), ("f/b", 3)]
    assert await folder("f/a/") == [("f/a/c", 5)]
    assert await folder("none/") == []


async def test_list_over_a_page(store: Store) -> None:
    made = [f"l/{number:05}" for number in range(1005)]
    gate = asyncio.Semaphore(16)

    async def put(key: str) -> None:
        async with gate:
            await store.put(key, b"")

    await asyncio.gather(*(put(key) for key in made))
    assert await keys(store, "l/") == made
    assert [info.key async for info in store.list_folder("l/")] == made
    assert len(await store.names("l/")) == len(made)
    assert await keys(store, "l/", "l/00999") == made[1000:]


async def test_delete(store: Store) -> None:
    await store.put("d/e/f", b"1")
    await store.put("d/e/g", b"2")
    await store.delete("d/e/f")
    assert await store.head("d/e/f") is None
    assert await store.get("d/e/g", 1) == b"2"
    await store.delete("d/e/g")
    assert await keys(store) == []


async def test_move(store: Store) -> None:
    data = noise(5 * 1024 * 1024)
    await store.put("_uploads/one", data)
    await store.move("_uploads/one", "blobs/sha256/aa", len(data))
    assert await store.head("_uploads/one") is None
    assert await store.get("blobs/sha256/aa", len(data)) == data
    await store.move("_uploads/one", "blobs/sha256/aa", len(data))
    assert await store.get("blobs/sha256/aa", len(data)) == data


async def test_move_replaces(store: Store) -> None:
    await store.put("old", b"new content")
    await store.put("target", b"?")
    await store.move("old", "target", 11)
    assert await store.get("target", 100) == b"new content"


async def test_move_of_nothing(store: Store) -> None:
    with pytest.raises(StoreError, match="source does not exist"):
        await store.move("no/such", "target", 6)


async def test_move_of_another_size(store: Store) -> None:
    """What is not as long as what was written is not that, at either end."""
    await store.put("source", b"cut")
    with pytest.raises(StoreError, match="has 3 bytes"):
        await store.move("source", "target", 6)
    assert await store.head("target") is None
    await store.put("target", b"cut")
    with pytest.raises(StoreError, match="source does not exist"):
        await store.move("no/such", "target", 6)
    assert await store.get("source", 3) == b"cut"


async def test_odd_keys(store: Store) -> None:
    made = ["manifests/a b/x+y.json", "manifests/ü/%41.json", "manifests/q?a=b&c#d.json", "a/~/'"]
    for key in made:
        await store.put(key, key.encode())
        assert await store.get(key, 100) == key.encode()
    assert sorted(await keys(store)) == sorted(made)
    await store.move(made[1], "moved", len(made[1].encode()))
    assert await store.get("moved", 100) == made[1].encode()


@pytest.mark.parametrize("first", [0, 1], ids=["object-first", "folder-first"])
async def test_an_object_and_a_folder_of_one_name(store: Store, first: int) -> None:
    """A tag `t` of a repository `x`, and a repository `x/t.json`."""
    made = [
        "manifests/x/t-1.json",
        "manifests/x/t.json",
        "manifests/x/t.json.json",
        "manifests/x/t.json/_digests/sha256-00.json",
        "manifests/x/t.json/v.json",
        "manifests/x/t.json/v.json/w.json",
        "manifests/x/t.jsonl/v.json",
    ]
    order = [made[1], *made[:1], *made[2:]] if first == 0 else made[::-1]
    for key in order:
        if "_digests" in key:  # SeaweedFS mostly fails to complete one where a folder is
            upload = await store.create_multipart(key)
            part = await store.put_part(upload, 1, 0, key.encode())
            assert [found.key async for found, _ in store.list_multiparts(key)] == [key]
            await store.complete_multipart(upload, [part])
        else:
            await store.put(key, key.encode())
    # SeaweedFS orders component by component.
    found = await keys(store)
    assert sorted(found) == sorted(made)
    assert found == sorted(made, key=str.encode) or not isinstance(store, DirectoryStore)
    for number, key in enumerate(found):
        assert await store.get(key, 100) == key.encode()
        is_folder = any(other.startswith(f"{key}/") for other in made)
        if isinstance(store, DirectoryStore) or not is_folder:  # SeaweedFS: see `Store.list`
            assert await keys(store, "manifests/", key) == found[number + 1 :]
    assert [info.key async for info in store.list_folder("manifests/x/")] == made[:3]
    assert sorted(await store.names("manifests/x/t.json/")) == ["v.json"]
    assert await keys(store, "manifests/x/t.json/") == [
        key for key in found if key.startswith("manifests/x/t.json/")
    ]
    assert await store.head("manifests/x") is None
    await store.move("manifests/x/t.json/v.json", "manifests/x/t.json/u.json", 25)
    await store.delete("manifests/x/t.json")
    assert await store.head("manifests/x/t.json") is None
    assert await store.head("manifests/x/t.json/u.json") is not None
    await store.put("manifests/x/t.json", b"again")
    for key in [*await keys(store, "manifests/x/t.json/")]:
        await store.delete(key)
    assert await store.get("manifests/x/t.json", 10) == b"again"


async def test_presigned_url(store: Store) -> None:
    data = noise(100_000)
    await store.put("blobs/sha256/cc", data)
    url = await store.presign("blobs/sha256/cc", 60)
    if url is None:
        async with store.open("blobs/sha256/cc") as reader:
            assert reader is not None
            assert reader.fileno() is not None, "there must be one way past us"
        return
    assert "X-Amz-Signature=" in url
    assert "X-Amz-Expires=60" in url

    def fetch() -> bytes:
        with urllib.request.urlopen(url, timeout=10) as answer:
            content: bytes = answer.read()
            return content

    assert await asyncio.to_thread(fetch) == data


async def test_many_at_once(store: Store) -> None:
    async def one(number: int) -> None:
        data = noise(200_000, number)
        await store.put(f"m/{number}", data)
        found = await store.get(f"m/{number}", len(data))
        assert found is not None
        assert hashlib.sha256(found).digest() == hashlib.sha256(data).digest()

    await asyncio.gather(*(one(number) for number in range(40)))


async def test_description(store: Store) -> None:
    assert store.description
    assert store.min_part_size >= 1


async def test_of_many_who_put_where_nothing_is_one_wins(store: Store) -> None:
    datas = [b"writer %d" % number for number in range(8)]
    won = await asyncio.gather(*(store.put_new("state/1", data) for data in datas))
    assert won.count(True) == 1
    assert await store.get("state/1", 100) == datas[won.index(True)]
    assert await store.put_new("state/1", b"too late") is False
    assert await store.put_new("state/2", b"elsewhere") is True
    assert await keys(store, "state/") == ["state/1", "state/2"]
