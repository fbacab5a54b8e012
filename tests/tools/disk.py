"""What of a directory would outlive a power cut now: no more than was synced (fsync(2)).

A stricter disk than any: a name lasts once its directory is synced, a file's bytes once the file
is, and neither because something else was.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest


class Disk:
    """Watches this process's calls, and lets those fsync(2) fail that `fails` says so of, by the
    path that is synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: Callable[[str], bool] = lambda _: False
        self.synced: list[str] = []
        """Paths of all fsyncs, failed ones too."""
        self._names: dict[int, dict[str, int]] = {}
        """By the inode of a directory: its names that last, with their inodes."""
        self._dirty: set[int] = set()
        self._fsync, self._mkdir, self._pwrite = os.fsync, os.mkdir, os.pwrite
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "mkdir", self.mkdir)
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def fsync(self, fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        self.synced.append(path)
        if self.fails(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        inode = os.fstat(fd).st_ino
        if os.path.isdir(path):
            with os.scandir(fd) as entries:
                names = {entry.name: entry.inode() for entry in entries}
            self._fsync(fd)
            self._names[inode] = names
        else:
            self._fsync(fd)
            self._dirty.discard(inode)

    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._mkdir(path, mode, dir_fd=dir_fd)
        self._names.pop(os.stat(path, dir_fd=dir_fd).st_ino, None)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self._dirty.add(os.fstat(fd).st_ino)
        return self._pwrite(fd, data, offset)

    def holds(self, root: Path, path: str) -> bool:
        """Whether `path`, below `root`, would be there with all its bytes."""
        inode: int | None = root.stat().st_ino
        for name in path.split("/"):
            inode = self._names.get(inode or 0, {}).get(name)
        return inode is not None and inode not in self._dirty
