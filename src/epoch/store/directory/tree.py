"""Files come and go in the directory, in a way that outlives a power cut: blocking calls.

What a power cut leaves is what was synced (fsync(2)): a file's bytes by its own descriptor, its
name by that of its directory, the directory's name by that of the one above. So nothing is
reported as done before all of these are synced, up to the root, and it does not matter who made
the change: a process that was killed before its fsync, or whose fsync failed, leaves what everybody
sees and the next power cut takes away.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable
from typing import Final

from epoch.store.directory import files
from epoch.store.directory.names import TMP

_TURNS: Final = 100
"""How often a directory is made again that `remove_empty` takes away in the same instant."""
_SYNCED: Final = stat.S_ISVTX
"""Of a folder's permissions: its name is durable in the folder above. Most objects have several
folders above them, which would cost an fsync each, and no process can know what others have synced,
removed and made again. It is set after the fsync, so it is never there without it."""


def above(path: str) -> str:
    """The folder that a path lies in, relative to the root; empty for the root itself."""
    return path.rpartition("/")[0]


class Tree:
    """Changes to the directory. `fsync`: whether they are to outlive a power cut."""

    def __init__(self, fsync: bool) -> None:
        self.fsync = fsync

    def sync(self, root: int, folders: Iterable[str]) -> None:
        """Make the entries of these folders durable, and the folders themselves up to the root.

        Of those that are gone, it is made durable that they are.
        """
        if not self.fsync:
            return
        for folder in folders:
            files.sync_folder(root, folder)
            while folder:
                _sync_name(root, folder)
                folder = above(folder)

    def sync_file(self, root: int, path: str) -> None:
        """Make the bytes of a file durable, and its name."""
        if self.fsync:
            files.sync_file(root, path)
            self.sync(root, [above(path)])

    def write(self, root: int, path: str, data: memoryview, *, replace: bool = True) -> None:
        """Store `data` at `path` in one step. Without `replace`: FileExistsError where a file is
        there, which is durable then."""
        temporary = f"{TMP}/{secrets.token_hex(16)}"
        try:
            fd = self._create(root, temporary)
            try:
                files.write_at(fd, 0, data)
                if self.fsync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            self.rename(root, temporary, path, replace=replace)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=root)
            raise

    def create(self, root: int, path: str) -> None:
        """Make a new empty file, and the directories above it."""
        os.close(self._create(root, path))

    def _create(self, root: int, path: str) -> int:
        for _ in range(_TURNS):
            with contextlib.suppress(FileNotFoundError):
                return files.create(root, path)
            make_folders(root, above(path))
        return files.create(root, path)

    def rename(self, root: int, source: str, target: str, *, replace: bool = True) -> None:
        """Rename a file, make the directories above `target`; FileNotFoundError: no source.

        Without `replace`: FileExistsError where `target` is there.
        """
        for turn in range(_TURNS):
            try:
                if replace:
                    os.rename(source, target, src_dir_fd=root, dst_dir_fd=root)
                else:
                    os.link(source, target, src_dir_fd=root, dst_dir_fd=root)
                    os.unlink(source, dir_fd=root)
                break
            except FileExistsError:
                self.sync(root, [above(target)])
                raise
            except FileNotFoundError:
                if turn == _TURNS - 1 or not _exists(root, source):
                    raise
                make_folders(root, above(target))
        self.sync(root, [above(target)])

    def complete(self, root: int, source: str, target: str, size: int) -> None:
        """Make the file of a multipart upload the object at `target`, cut to `size` bytes."""
        try:
            files.finish(root, source, size, self.fsync)
            self.rename(root, source, target)
        except FileNotFoundError:
            if _size(root, target) != size:
                raise files.no_upload() from None
            # Completed before, and the answer was lost; perhaps also the fsync.
            self.sync(root, [above(target)])
        files.drain(root, target, self.fsync)

    def move(self, root: int, source: str, target: str, size: int) -> None:
        """Rename an object of `size` bytes, whose age counts from now."""
        if (found := _size(root, source)) not in (None, size):
            raise files.Refused(f"the source has {found} bytes, not {size}")
        try:
            os.utime(source, dir_fd=root)
            self.rename(root, source, target)
        except FileNotFoundError:
            if _size(root, target) != size:
                raise files.Refused("the source does not exist") from None
            self.sync(root, [above(target)])

    def remove(self, root: int, path: str, keep: str = "") -> None:
        """Remove a file, if it is there, and the directories that it leaves empty, below `keep`."""
        # Where it is not there, a removal that was not synced may be the reason.
        with contextlib.suppress(*files.MISSING, IsADirectoryError):
            os.unlink(path, dir_fd=root)
        self.sync(root, [above(path)])
        self.remove_empty(root, above(path), keep)

    def remove_empty(self, root: int, folder: str, keep: str = "") -> None:
        """Remove `folder` and the directories above it, below `keep`, as far as they are empty."""
        with contextlib.suppress(OSError):
            while len(folder) > len(keep):
                os.rmdir(folder, dir_fd=root)
                folder = above(folder)


def make_folders(root: int, folder: str) -> None:
    """Make a folder and those above it, but never the root.

    Returns without having made it where another process takes one of them away meanwhile.
    """
    names = folder.split("/")
    for count in range(1, len(names) + 1):
        try:
            os.mkdir("/".join(names[:count]), dir_fd=root)
        except FileExistsError:
            continue
        except FileNotFoundError:
            return


def _sync_name(root: int, folder: str) -> None:
    """Make it durable that a folder is there, or that it is gone."""
    try:
        if os.stat(folder, dir_fd=root).st_mode & _SYNCED:
            return
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except files.MISSING:
        files.sync_folder(root, above(folder))
        return
    try:
        files.sync_folder(root, above(folder))
        # By its descriptor: another process may just make a new one of that name. Where the file
        # system has no such bit, the folder above is synced each time.
        with contextlib.suppress(OSError):
            os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | _SYNCED)
    finally:
        os.close(fd)


def _exists(root: int, path: str) -> bool:
    try:
        os.stat(path, dir_fd=root, follow_symlinks=False)
    except files.MISSING:
        return False
    return True


def _size(root: int, path: str) -> int | None:
    """The size of a regular file, or None."""
    try:
        status = os.stat(path, dir_fd=root)
    except files.MISSING:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
