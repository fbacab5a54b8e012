"""What the store in a directory has returned from outlives a power cut, whoever made the change."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from epoch.store.base import StoreError
from epoch.store.directory.store import DirectoryStore
from tests.tools.disk import Disk

KEYS = ["a/b/c", "a/b/d", "a/e", "f/t.json", "f/t.json/g", "h"]


def on_disk(key: str) -> str:
    return key.replace("t.json/", "t+json/")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "made" / "store"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def store(disk: Disk, root: Path) -> AsyncIterator[DirectoryStore]:
    made = DirectoryStore(root)
    await made.check()
    yield made
    await made.close()


async def test_a_new_directory(store: DirectoryStore, disk: Disk, tmp_path: Path) -> None:
    """Also its own name, and that of the one that was made above it."""
    assert disk.holds(tmp_path, "made/store/_identity")


async def _put_new(store: DirectoryStore) -> None:
    assert await store.put_new("a/b", b"2")


async def _put_new_in_vain(store: DirectoryStore) -> None:
    assert not await store.put_new("a/b", b"somebody else's")


async def _complete(store: DirectoryStore) -> None:
    upload = await store.create_multipart("a/b")
    part = await store.put_part(upload, 1, 0, b"2")
    try:
        await store.complete_multipart(upload, [part])
    except StoreError:
        await store.complete_multipart(upload, [part])


async def _move(store: DirectoryStore) -> None:
    await store.put("elsewhere", b"2")
    try:
        await store.move("elsewhere", "a/b", 1)
    except StoreError:
        await store.move("elsewhere", "a/b", 1)


async def _make_durable(store: DirectoryStore) -> None:
    await store.make_durable(["a/b"])


@pytest.mark.parametrize("again", [_put_new, _put_new_in_vain, _complete, _move, _make_durable])
async def test_what_was_found_and_not_written(
    store: DirectoryStore,
    disk: Disk,
    root: Path,
    again: Callable[[DirectoryStore], Awaitable[None]],
) -> None:
    """The first attempt leaves an object that everybody sees and the disk does not have."""
    disk.fails = lambda path: path == str(root / "a")
    with pytest.raises(StoreError, match="put a/b: the disk failed"):
        await store.put_new("a/b", b"2")
    assert await store.get("a/b", 1) == b"2"
    assert not disk.holds(root, "a/b")
    failures = iter([True])
    disk.fails = lambda path: path == str(root / "a") and next(failures, False)
    try:
        await again(store)
    except StoreError:
        await again(store)
    assert disk.holds(root, "a/b")


async def test_a_removal_that_was_not_synced(store: DirectoryStore, disk: Disk, root: Path) -> None:
    await store.put("a/b", b"1")
    await store.put("a/c", b"1")
    disk.fails = lambda path: path == str(root / "a")
    with pytest.raises(StoreError):
        await store.delete("a/b")
    assert await store.head("a/b") is None
    assert disk.holds(root, "a/b")
    disk.fails = lambda _: False
    await store.delete("a/b")
    assert not disk.holds(root, "a/b")
    assert disk.holds(root, "a/c")


async def test_a_folder_that_another_process_made(
    store: DirectoryStore, disk: Disk, root: Path
) -> None:
    """It died before it could sync: nobody else does."""
    (root / "a" / "b").mkdir(parents=True)
    await store.put("a/b/c", b"1")
    assert disk.holds(root, "a/b/c")
    # It also removes and makes again what is known to be on the disk, maybe with the same inode.
    (root / "a" / "b" / "c").unlink()
    (root / "a" / "b").rmdir()
    (root / "a" / "b").mkdir()
    await store.put("a/b/c", b"1")
    assert disk.holds(root, "a/b/c")


async def test_parts(store: DirectoryStore, disk: Disk, root: Path) -> None:
    """Those that are acknowledged to a client, who will not send them again."""
    upload = await store.create_multipart("a/b")
    place = f"_multipart/a/b/{upload.upload_id}"
    await store.put_part(upload, 2, 3, b"two")
    await store.put_part(upload, 1, 0, b"one")
    assert not disk.holds(root, place)
    await store.sync_parts(upload)
    assert disk.holds(root, place)
    await store.abort_multipart(upload)
    with pytest.raises(StoreError, match="sync parts of a/b: no such upload"):
        await store.sync_parts(upload)


async def test_a_part_that_arrives_while_it_is_completed(
    store: DirectoryStore, disk: Disk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a request that was given up, in another process: after the fsync, before the rename."""
    upload = await store.create_multipart("a")
    part = await store.put_part(upload, 1, 0, b"one")
    rename = os.rename

    def late(source: str, target: str, **folders: int) -> None:
        with open(root / "_multipart" / "a" / upload.upload_id, "r+b") as file:
            os.pwrite(file.fileno(), memoryview(b"1"), 0)
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", late)
    await store.complete_multipart(upload, [part])
    assert disk.holds(root, "a")


@pytest.mark.parametrize("seed", range(8))
async def test_any_calls_with_any_failures(disk: Disk, root: Path, seed: int) -> None:
    """Two processes, any of whose fsyncs fail: what a call has returned from is on the disk."""
    choose = random.Random(seed)
    disk.fails = lambda _: choose.random() < 0.25
    stores = [DirectoryStore(root), DirectoryStore(root)]
    number = itertools.count()

    async def insist(call: Callable[[DirectoryStore], Awaitable[object]]) -> None:
        """Until it works, through whichever process."""
        for _ in range(200):
            try:
                await call(choose.choice(stores))
            except StoreError:
                continue
            else:
                return
        raise AssertionError("it never works")

    for store in stores:
        await insist(lambda _, store=store: store.check())  # type: ignore[misc]
    for _ in range(60):
        key, other, data = choose.choice(KEYS), choose.choice(KEYS), b"%d" % next(number)
        found = await stores[0].head(key)
        match choose.choice(["put", "new", "delete", "multipart", "move", "found"]):
            case "put":
                await insist(lambda store: store.put(key, data))  # noqa: B023
            case "new":
                await insist(lambda store: store.put_new(key, data))  # noqa: B023
            case "delete":
                await insist(lambda store: store.delete(key))  # noqa: B023
                assert not disk.holds(root, on_disk(key))
                continue
            case "multipart":
                upload = await stores[0].create_multipart(key)
                part = await stores[1].put_part(upload, 1, 0, data)
                await insist(lambda store: store.complete_multipart(upload, [part]))  # noqa: B023
            case "move" if found and key != other:
                await insist(lambda store: store.move(key, other, found.size))  # noqa: B023
                key = other
            case "found" if found:
                await insist(lambda store: store.make_durable([other, key]))  # noqa: B023
            case _:
                continue
        assert disk.holds(root, on_disk(key)), key
    for store in stores:
        await store.close()
