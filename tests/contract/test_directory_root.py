"""The directory that is unmounted, moved, removed or replaced while the store is open."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from epoch.store.base import Multipart, StoreError
from epoch.store.directory.store import DirectoryStore
from tests.tools.disk import Disk

GONE = "is not the one that this server started with"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[DirectoryStore]:
    made = DirectoryStore(root)
    await made.check()
    await made.put("a/b", b"1")
    yield made
    await made.close()


async def refuses_everything(store: DirectoryStore, upload: Multipart) -> None:
    """Neither is anything missing, nor is anything stored, removed or listed."""

    async def read() -> None:
        async with store.open("a/b"):
            pass

    async def list_all() -> None:
        assert [info async for info in store.list("")]

    async def list_folder() -> None:
        assert [info async for info in store.list_folder("a/")]

    async def list_multiparts() -> None:
        assert [found async for found in store.list_multiparts("")]

    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.check(),
        lambda: store.head("a/b"),
        lambda: store.head("none"),
        lambda: store.get("a/b", 10),
        lambda: store.fetch("none", 10),
        read,
        list_all,
        list_folder,
        list_multiparts,
        lambda: store.names("a/"),
        lambda: store.put("a/c", b"2"),
        lambda: store.put_new("a/d", b"2"),
        lambda: store.make_durable(["a/b"]),
        lambda: store.delete("a/b"),
        lambda: store.create_multipart("a/e"),
        lambda: store.put_part(upload, 1, 0, b"2"),
        lambda: store.sync_parts(upload),
        lambda: store.complete_multipart(upload, []),
        lambda: store.abort_multipart(upload),
        lambda: store.move("a/b", "a/f", 1),
        lambda: store.move("none", "a/b", 1),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=GONE):
            await call()


def remove(root: Path) -> None:
    shutil.rmtree(root)


def move_away(root: Path) -> None:
    root.rename(root.parent / "away")


def replace_by_nothing(root: Path) -> None:
    root.rename(root.parent / "away")
    root.mkdir()


def replace_by_a_file(root: Path) -> None:
    root.rename(root.parent / "away")
    root.write_bytes(b"")


def replace_by_another(root: Path) -> None:
    """As it was when the data moved here from another disk: its copy, with its identity."""
    root.rename(root.parent / "away")
    subprocess.run(["cp", "-a", root.parent / "away", root], check=True)


def replace_by_the_next(root: Path) -> None:
    """Removed, and made again by a server that was started since."""
    shutil.rmtree(root)
    root.mkdir()
    (root / "_identity").write_text("0" * 32 + "\n")
    (root / "a").mkdir()
    (root / "a" / "b").write_bytes(b"other")


def replace_by_the_next_with_the_same_inodes(root: Path) -> None:
    """A file system gives the numbers of what was removed to what is made next."""
    (root / "_identity").write_text("0" * 32 + "\n")


def open_paths() -> list[str]:
    """Of all that this process has open."""
    return [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]


def bring_back(root: Path) -> bool:
    """Put the directory in its place again, if it still is somewhere."""
    away = root.parent / "away"
    if not away.exists():
        return False
    if root.is_dir():
        shutil.rmtree(root)
    root.unlink(missing_ok=True)
    away.rename(root)
    return True


WAYS = [
    remove,
    move_away,
    replace_by_nothing,
    replace_by_a_file,
    replace_by_another,
    replace_by_the_next,
    replace_by_the_next_with_the_same_inodes,
]


def tree(root: Path) -> list[str]:
    """All that lies at a path, and itself."""
    return sorted(str(path) for path in [root, *root.rglob("*")]) if root.exists() else []


@pytest.mark.parametrize("way", WAYS)
async def test_another_directory(
    store: DirectoryStore, root: Path, way: Callable[[Path], None]
) -> None:
    upload = await store.create_multipart("a/g")
    way(root)
    before = tree(root)
    await refuses_everything(store, upload)
    assert tree(root) == before
    if bring_back(root):
        assert await store.get("a/b", 1) == b"1"
        await store.put("a/c", b"2")
        assert await store.head("none") is None


async def test_it_goes_on_when_only_the_numbers_have_changed(
    store: DirectoryStore, root: Path
) -> None:
    """`chown -R`, and what else changes the identity's status."""
    (root / "_identity").chmod(0o600)
    assert await store.get("a/b", 1) == b"1"
    with pytest.raises(StoreError, match="not an object key"):
        await store.put("_identity", b"")


async def test_what_was_begun_ends_in_the_directory_that_was_proved(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced between the look at its identity and the rename: nothing gets into the new."""
    rename = os.rename

    def late(source: str, target: str, **folders: int) -> None:
        monkeypatch.undo()
        rename(root, root.parent / "away")
        root.mkdir()
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", late)
    await store.put("c/d", b"2")
    assert tree(root) == [str(root)]
    assert (root.parent / "away" / "c" / "d").read_bytes() == b"2"
    with pytest.raises(StoreError, match=GONE):
        await store.head("c/d")


async def test_the_directory_is_not_kept_open(store: DirectoryStore, root: Path) -> None:
    """Else it could not be unmounted."""
    await store.get("a/b", 1)
    assert [info async for info in store.list("")]
    assert [path for path in open_paths() if path.startswith(str(root))] == []


async def test_two_that_start_at_once_agree(root: Path) -> None:
    stores = [DirectoryStore(root) for _ in range(8)]
    await asyncio.gather(*(store.check() for store in stores))
    for number, store in enumerate(stores):
        await store.put(str(number), b"")
    for store in stores:
        assert len([info async for info in store.list("")]) == len(stores)
        await store.close()


@pytest.mark.parametrize("content", [b"", b"0" * 32, b"x" * 32 + b"\n", b"0" * 33 + b"\n"])
async def test_a_damaged_identity(root: Path, content: bytes) -> None:
    os.mkdir(root)
    (root / "_identity").write_bytes(content)
    store = DirectoryStore(root)
    with pytest.raises(StoreError, match="_identity is damaged: remove"):
        await store.check()
    await store.close()


async def test_one_that_must_be_there(store: DirectoryStore, root: Path) -> None:
    """A worker that is started again makes no directory: its disk may be unmounted."""
    again = DirectoryStore(root, create=False)
    await again.check()
    assert await again.get("a/b", 1) == b"1"
    await again.close()
    for way in (move_away, replace_by_nothing):
        way(root)
        before = tree(root)
        again = DirectoryStore(root, create=False)
        with pytest.raises(StoreError, match=GONE):
            await again.check()
        await again.close()
        assert tree(root) == before
        bring_back(root)


async def test_a_start_that_was_cut_short(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The identity comes last: without it, all that comes before is done once more."""
    disk = Disk(monkeypatch)
    disk.fails = lambda path: path == str(root.parent)
    store = DirectoryStore(root)
    with pytest.raises(StoreError, match="disk failed"):
        await store.check()
    assert not (root / "_identity").exists()
    disk.fails = lambda _: False
    await store.check()
    assert disk.holds(root.parent, "store/_identity")
    await store.close()


async def test_folders_of_earlier_builds(root: Path) -> None:
    """`t.json/` in the time before `_identity`: their objects are found, listed and in order."""
    old = {
        "manifests/x/t.json/v1.json": b"1",
        "manifests/x/t.json/_digests/sha256-00.json": b"2",
        "manifests/x/y.json/z.json/v.json": b"3",
        "referrers/x/t.json/sha256-00/sha256-11.json": b"4",
    }
    for key, data in old.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    store = DirectoryStore(root)
    await store.check()
    assert [info.key async for info in store.list("")] == sorted(old)
    for key, data in old.items():
        assert await store.get(key, 10) == data
    await store.put("manifests/x/t.json", b"a tag")
    assert await store.get("manifests/x/t.json", 10) == b"a tag"
    await store.close()


async def _read(store: DirectoryStore) -> None:
    async with store.open("a/b") as reader:
        assert reader is not None
        await anext(aiter(reader))


@pytest.mark.parametrize(
    ("call", "operation", "read"),
    [
        ("stat", "head", lambda store: store.head("a/b")),
        ("open", "get", lambda store: store.get("a/b", 10)),
        ("fstat", "get", lambda store: store.get("a/b", 10)),
        ("pread", "get", lambda store: store.get("a/b", 10)),
        ("open", "open", _read),
        ("pread", "read", _read),
    ],
)
async def test_a_failed_read_names_its_object(
    store: DirectoryStore,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    operation: str,
    read: Callable[[DirectoryStore], Awaitable[object]],
) -> None:
    """And leaves no file open."""
    real = getattr(os, call)

    def fails(what: object, *args: object, **more: object) -> object:
        if what == "a/b" or isinstance(what, int):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(what, *args, **more)

    before = len(open_paths())
    monkeypatch.setattr(os, call, fails)
    if call == "pread":
        monkeypatch.setattr(os, "preadv", fails)  # tried first, for what is cached
    with pytest.raises(StoreError, match=f"^{operation} a/b: the disk failed"):
        await read(store)
    monkeypatch.undo()
    assert len(open_paths()) == before


async def test_a_file_that_was_cut_names_its_object(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstat

    def before_the_cut(fd: int) -> os.stat_result:
        status = real(fd)
        os.truncate(root / "a" / "b", 0)
        return status

    monkeypatch.setattr(os, "fstat", before_the_cut)
    with pytest.raises(StoreError, match=r"^get a/b: the file ended early"):
        await store.get("a/b", 10)
