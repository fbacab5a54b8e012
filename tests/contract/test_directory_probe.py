"""What the file system cannot do is found out at start, in one line."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from epoch.store.base import StoreError
from epoch.store.directory.store import DirectoryStore

Patch = pytest.MonkeyPatch


def fails_with(code: int) -> Callable[..., object]:
    def fails(*_: object, **__: object) -> object:
        raise OSError(code, os.strerror(code))

    return fails


async def start(root: Path) -> DirectoryStore:
    store = DirectoryStore(root)
    try:
        await store.check()
    except StoreError:
        await store.close()
        raise
    return store


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EINVAL])
@pytest.mark.parametrize(
    ("module", "call", "named"),
    [
        (os, "link", r"link\(2\)"),
        (os, "rename", r"rename\(2\)"),
        (os, "pwrite", r"write\(2\) at any offset"),
        (os, "ftruncate", r"ftruncate\(2\)"),
        (os, "utime", r"utimensat\(2\)"),
        (os, "fsync", r"fsync\(2\) of a file"),
        (fcntl, "flock", r"flock\(2\)"),
    ],
)
async def test_a_call_that_is_refused(
    tmp_path: Path, monkeypatch: Patch, module: object, call: str, named: str, code: int
) -> None:
    root = tmp_path / "store"
    monkeypatch.setattr(module, call, fails_with(code))
    with pytest.raises(StoreError) as caught:
        await start(root)
    message = str(caught.value)
    assert message.startswith(f"open {root}: the file system refuses ")
    for part in (named.replace("\\", ""), os.strerror(code), "another file system, or a bucket"):
        assert part in message
    assert "\n" not in message
    monkeypatch.undo()
    # Nothing is left of the attempt, and it is no obstacle to the next.
    assert os.listdir(root) == ["_tmp"]
    assert os.listdir(root / "_tmp") == []
    await (await start(root)).close()


async def test_directories_that_cannot_be_synced(tmp_path: Path, monkeypatch: Patch) -> None:
    fsync = os.fsync

    def only_files(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", only_files)
    with pytest.raises(StoreError, match=r"refuses fsync\(2\) of a directory"):
        await start(tmp_path / "store")


async def test_a_lock_that_excludes_nobody(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(StoreError, match=r"flock\(2\).*excludes nobody"):
        await start(tmp_path / "store")


async def test_a_link_that_replaces(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "link", lambda *_, **__: None)
    with pytest.raises(StoreError, match=r"link\(2\).*it replaces a file that is there"):
        await start(tmp_path / "store")


async def test_upper_and_lower_case(tmp_path: Path, monkeypatch: Patch) -> None:
    stat = os.stat

    def folded(path: str, **more: object) -> os.stat_result:
        return stat(path.lower() if "PROBE" in str(path) else path, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", folded)
    with pytest.raises(StoreError, match="upper and lower case"):
        await start(tmp_path / "store")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
async def test_a_disk_in_trouble_is_not_called_unable(
    tmp_path: Path, monkeypatch: Patch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", fails_with(code))
    with pytest.raises(StoreError) as caught:
        await start(tmp_path / "store")
    assert "refuses" not in str(caught.value)
    assert "bucket" not in str(caught.value)


async def test_without_sendfile_files_are_read(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "sendfile", fails_with(errno.EINVAL))
    store = await start(tmp_path / "store")
    await store.put("k", b"content")
    async with store.open("k") as reader:
        assert reader is not None
        assert reader.fileno() is None
        assert [chunk async for chunk in reader] == [b"content"]
    await store.close()
