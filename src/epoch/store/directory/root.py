"""The root of the directory store, and that it is still the one that the server started with.

While a server runs, its disk may be unmounted, its directory renamed, removed, or replaced by an
empty one. What is not found then is not missing, and what is stored then is lost as soon as the
disk is back. So there is a file `_identity` at the root, 32 random hex digits, and every call opens
the root, looks whether the file is still the same, and does all its work relative to that
descriptor: from there on it cannot get into another directory, whatever is mounted meanwhile.

The descriptor is not kept between two calls: it would keep the file system from being unmounted.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from typing import Final

from epoch.store.directory import files
from epoch.store.directory.names import IDENTITY, TMP, swapped
from epoch.store.directory.probe import probe
from epoch.store.directory.tree import Tree, make_folders

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_AS_ROOT: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_FORM: Final = re.compile(rb"[0-9a-f]{32}\n")
_LENGTH: Final = 33

_Place = tuple[int, int, int]


class Root:
    """The directory `path`. `adopt` comes first.

    `create`: whether it may be made where it is missing.
    """

    def __init__(self, path: str, tree: Tree, *, create: bool) -> None:
        self.path = os.path.abspath(path)
        self.can_sendfile = True
        self._tree = tree
        self._create = create
        self._identity: bytes | None = None
        self._place: _Place = (0, 0, 0)

    def adopt(self) -> None:
        """Make the directory, or take the one that is there, from now on for the right one; where
        that was done before, prove that it is. And prove that its file system can do all that is
        needed. `Refused`, `OSError`."""
        fd = self.open() if self._identity is not None else self._first()
        try:
            make_folders(fd, TMP)
            self.can_sendfile = probe(fd)
            if self._identity is None:
                identity = _read(fd)
                if identity is None:
                    _rename_old_folders(fd)
                    self._write_identity(fd)
                    identity = _read(fd) or b""
                self._place = _place(fd)
                self._identity = identity
        finally:
            os.close(fd)

    def open(self) -> int:
        """Open the directory; the caller closes it. `Refused` where it is another one by now.

        Takes 5 us.
        """
        if self._identity is None:
            self.adopt()
        try:
            fd = os.open(self.path, _AS_ROOT)
        except files.MISSING:
            raise self._gone() from None
        try:
            found = os.stat(IDENTITY, dir_fd=fd)
            if (found.st_dev, found.st_ino, found.st_ctime_ns) != self._place:
                self._compare(fd)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, files.MISSING):
                raise self._gone() from None
            raise
        return fd

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """The same, closed at the end."""
        fd = self.open()
        try:
            yield fd
        finally:
            os.close(fd)

    def _compare(self, fd: int) -> None:
        """Whether an `_identity` that lies elsewhere than it did is the same file.

        Mounted again, a file system may have another device number, and some number their files
        anew all the time. A copy has another change time, which nothing can set: the one that was
        left below the mount point when the data moved to a disk of its own is not taken for it.
        """
        place = _place(fd)
        is_same_file = place[:2] == self._place[:2] or place[2] == self._place[2]
        if not is_same_file or _read(fd) != self._identity:
            raise self._gone()
        self._place = place

    def _gone(self) -> files.Refused:
        return files.Refused(
            f"the data directory {self.path} is not the one that this server started with (it was "
            "unmounted, moved, removed or replaced): mount it again, or restart the server",
            retry_after=5.0,
        )

    def _first(self) -> int:
        if self._create:
            os.makedirs(self.path, exist_ok=True)
            return os.open(self.path, _FLAGS)
        try:
            fd = os.open(self.path, _FLAGS)
        except files.MISSING:
            raise self._gone() from None
        try:
            if _read(fd) is None:
                raise self._gone()
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _write_identity(self, fd: int) -> None:
        # The last step: where it is missing, a start that was cut short is done once more.
        if self._tree.fsync:
            _sync_above(self.path)
        with contextlib.suppress(FileExistsError):  # another process was faster
            data = secrets.token_hex(16).encode() + b"\n"
            self._tree.write(fd, IDENTITY, memoryview(data), replace=False)


def _place(fd: int) -> _Place:
    """Device, inode and change time of `_identity`."""
    status = os.stat(IDENTITY, dir_fd=fd)
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _read(fd: int) -> bytes | None:
    """What is in `_identity`, or None where there is none."""
    opened = files.open_object(fd, IDENTITY)
    if opened is None:
        return None
    try:
        data = os.pread(opened[0], _LENGTH + 1, 0)
    finally:
        os.close(opened[0])
    if _FORM.fullmatch(data) is None:
        raise files.Refused(
            f"its file {IDENTITY} is damaged: remove that file if this is the right directory"
        )
    return data


def _sync_above(path: str) -> None:
    """Make the name of a directory durable, and those of the directories above it that may have
    been made with it: up to where its file system is mounted."""
    path = os.path.realpath(path)
    device = os.stat(path).st_dev
    while (folder := os.path.dirname(path)) != path and os.stat(folder).st_dev == device:
        try:
            fd = os.open(folder, _FLAGS)
        except PermissionError:
            return  # so we have not made what is in it
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        path = folder


def _rename_old_folders(fd: int) -> None:
    """Folders as they were named before `_identity` came up: `x.json` for what is `x+json` now."""
    for _, names, _, folder in os.fwalk(".", topdown=False, dir_fd=fd):
        old = [name for name in names if name.endswith(".json")]
        for name in old:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.rename(name, swapped(name), src_dir_fd=folder, dst_dir_fd=folder)
        if old:
            os.fsync(folder)
