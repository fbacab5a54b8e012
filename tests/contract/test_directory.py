"""What only the store in a directory has to care for."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from epoch.store.base import Multipart, StoreError
from epoch.store.directory import files
from epoch.store.directory.store import DirectoryStore


def tree(folder: Path) -> list[str]:
    """All that lies in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    made = DirectoryStore(tmp_path / "store")
    await made.check()
    yield made
    await made.close()


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file may be larger than this: the one disk failure that every machine can produce."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


BAD_KEYS = ["", "/", "a//b", "../x", "a/../../x", "a/..", ".", "a/./b", "/etc/x", "a/", "a\0b"]
INTERNAL_KEYS = ["_tmp/x", "_multipart/x", "_tmp", "_multipart", "_identity", "_identity/x"]


@pytest.mark.parametrize("key", BAD_KEYS + INTERNAL_KEYS)
async def test_no_key_leaves_the_root(store: DirectoryStore, tmp_path: Path, key: str) -> None:
    before = tree(tmp_path)
    for attempt in (
        store.put(key, b"x"),
        store.get(key, 10),
        store.head(key),
        store.delete(key),
        store.create_multipart(key),
        store.put_part(Multipart(key, "0" * 32), 1, 0, b"x"),
        store.move(key, "target", 1),
        store.move("source", key, 1),
    ):
        with pytest.raises(StoreError):
            await attempt
    assert tree(tmp_path) == before


@pytest.mark.parametrize("prefix", ["../", "_tmp/", "_multipart/", "a/../../", "/"])
async def test_no_list_leaves_the_root(store: DirectoryStore, tmp_path: Path, prefix: str) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    (tmp_path / "store" / "a").mkdir()
    await store.create_multipart("k")
    assert [info async for info in store.list(prefix)] == []


@pytest.mark.parametrize("upload_id", ["", "../../x", "0" * 31, "g" * 32, "0" * 32 + "\n"])
async def test_no_upload_id_leaves_the_root(store: DirectoryStore, upload_id: str) -> None:
    upload = Multipart("k", upload_id)
    with pytest.raises(StoreError, match="not an upload"):
        await store.put_part(upload, 1, 0, b"x")
    with pytest.raises(StoreError, match="not an upload"):
        await store.abort_multipart(upload)


async def test_nothing_is_left_behind(store: DirectoryStore, tmp_path: Path) -> None:
    await store.put("a/b/c", b"1")
    upload = await store.create_multipart("d/e")
    part = await store.put_part(upload, 1, 0, b"2")
    await store.complete_multipart(upload, [part])
    await store.abort_multipart(await store.create_multipart("f/g/h"))
    await store.move("a/b/c", "i/j", 1)
    await store.delete("i/j")
    await store.delete("d/e")
    assert tree(tmp_path / "store") == ["_identity", "_multipart", "_tmp"]


async def test_survives_a_restart(store: DirectoryStore, tmp_path: Path) -> None:
    upload = await store.create_multipart("k")
    parts = [await store.put_part(upload, 1, 0, b"one")]
    other = DirectoryStore(tmp_path / "store")
    await other.check()
    parts.append(await other.put_part(upload, 2, 3, b"two"))
    await other.complete_multipart(upload, parts)
    await other.close()
    assert await store.get("k", 6) == b"onetwo"


async def test_check_removes_what_a_crash_left(store: DirectoryStore, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "_tmp"
    old, new = folder / "old", folder / "new"
    for path in (old, new):
        path.write_bytes(b"x")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    await store.check()
    assert sorted(folder.iterdir()) == [new]


async def test_a_part_is_missing(store: DirectoryStore) -> None:
    upload = await store.create_multipart("k")
    first = await store.put_part(upload, 1, 0, b"one")
    third = await store.put_part(upload, 3, 6, b"two")
    with pytest.raises(StoreError, match="does not begin"):
        await store.complete_multipart(upload, [first, third])
    assert await store.head("k") is None


async def test_what_is_behind_the_last_part_is_cut(store: DirectoryStore) -> None:
    """An attempt that a cancelled client's part made, beyond the parts that count."""
    upload = await store.create_multipart("k")
    first = await store.put_part(upload, 1, 0, b"one")
    await store.put_part(upload, 2, 3, b"not counted")
    await store.complete_multipart(upload, [first])
    assert await store.get("k", 100) == b"one"


async def test_disk_failure_is_told(
    store: DirectoryStore, tmp_path: Path, small_files: int
) -> None:
    data = bytearray(small_files + 1)
    with pytest.raises(StoreError, match=r"put k: the object is too large"):
        await store.put("k", data)
    upload = await store.create_multipart("k")
    with pytest.raises(StoreError, match="put part 1 of k: the object is too large"):
        await store.put_part(upload, 1, small_files, data)
    data.append(0)  # BufferError while a view of it is out
    assert list((tmp_path / "store" / "_tmp").iterdir()) == []
    assert await store.head("k") is None


@pytest.mark.parametrize(
    ("code", "text"),
    [(errno.ENOSPC, "no space"), (errno.EROFS, "read-only"), (errno.EIO, "disk failed")],
)
def test_errors_are_explained(code: int, text: str) -> None:
    with (
        pytest.raises(StoreError, match=f"put k: .*{text}"),
        files.explained("put k"),
    ):
        raise OSError(code, os.strerror(code))


async def test_age_counts_from_when_an_object_is_there(
    store: DirectoryStore, tmp_path: Path
) -> None:
    """And not from its last part: garbage collection goes by it."""
    upload = await store.create_multipart("_uploads/1/data")
    part = await store.put_part(upload, 1, 0, b"long ago")
    (parts,) = (tmp_path / "store/_multipart").rglob(upload.upload_id)
    os.utime(parts, (1, 1))
    await store.complete_multipart(upload, [part])
    completed = await store.head("_uploads/1/data")
    assert completed is not None
    assert time.time() - completed.modified < 60
    os.utime(tmp_path / "store/_uploads/1/data", (1, 1))
    await store.move("_uploads/1/data", "blobs/x", 8)
    moved = await store.head("blobs/x")
    assert moved is not None
    assert time.time() - moved.modified < 60


async def test_names_that_collide(store: DirectoryStore) -> None:
    """What a bucket can hold side by side, a file system cannot."""
    await store.put("a/b", b"1")
    with pytest.raises(StoreError, match="collide"):
        await store.put("a", b"2")
    with pytest.raises(StoreError, match="collide"):
        await store.put("a/b/c", b"3")
    assert await store.head("a") is None
    assert await store.get("a", 10) is None
    assert await store.head("a/b/c") is None
    assert await store.get("a/b", 1) == b"1"


async def test_check_of_a_place_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = DirectoryStore(tmp_path / "file" / "store")
    with pytest.raises(StoreError, match="file"):
        await store.check()
    await store.close()


async def test_file_that_is_cut_while_it_is_read(store: DirectoryStore, tmp_path: Path) -> None:
    await store.put("k", bytes(3_000_000))
    async with store.open("k") as reader:
        assert reader is not None
        chunks = aiter(reader)
        await anext(chunks)
        os.truncate(tmp_path / "store" / "k", 600_000)
        with pytest.raises(StoreError, match="ended early"):
            async for _ in chunks:
                pass


async def test_loop_goes_on_during_large_writes(store: DirectoryStore) -> None:
    """The longest pause of the loop, while 64 MiB are written in parts and made durable."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    data = bytes(16 * 1024 * 1024)
    ticking = asyncio.create_task(tick())
    upload = await store.create_multipart("k")
    parts = [await store.put_part(upload, n + 1, n * len(data), data) for n in range(4)]
    await store.complete_multipart(upload, parts)
    ticking.cancel()
    assert longest < 0.5


def test_needs_no_s3_library() -> None:
    """A server on a directory does not pay half a second for what it never uses."""
    code = (
        "import sys, epoch.store.directory.store; "
        "sys.exit(any(name in sys.modules for name in ('aiobotocore', 'botocore', 'aiohttp')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
