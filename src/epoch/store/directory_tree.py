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

from epoch.store import directory_files as files
from epoch.store.directory_names import TMP

_TURNS: Final = 100
"""How often a directory is made again that `remove_empty` takes away in the same instant."""
_REMEMBERED: Final = 10_000


def above(path: str) -> str:
    """The folder that a path lies in, relative to the root; empty for the root itself."""
    return path.rpartition("/")[0]


class Tree:
    """The changes of one process. `fsync`: whether they are to outlive a power cut."""

    def __init__(self, fsync: bool) -> None:
        self.fsync = fsync
        self._synced: dict[str, int] = {}
        """Folders whose name is durable in the folder above, with their inode: most objects have
        several above them, which would cost an fsync each. One that another process removed and
        made again has another inode; where it gets the same one, by chance, it lasts because
        journals keep the order: the fsync of the folder itself includes that it was made."""

    def sync(self, root: int, folders: Iterable[str]) -> None:
        """Make the entries of these folders durable, and the folders themselves up to the root.

        Of those that are gone, it is made durable that they are.
        """
        if not self.fsync:
            return
        for folder in folders:
            files.sync_folder(root, folder)
            while folder:
                inode = _inode(root, folder)
                if inode is None or self._synced.get(folder) != inode:
                    files.sync_folder(root, above(folder))
                    self._remember(folder, inode)
                folder = above(folder)

    def _remember(self, folder: str, inode: int | None) -> None:
        self._synced.pop(folder, None)
        if inode is not None:
            if len(self._synced) >= _REMEMBERED:
                self._synced.clear()
            self._synced[folder] = inode

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
                if turn == _TURNS - 1 or _inode(root, source) is None:
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

    def move(self, root: int, source: str, target: str) -> None:
        """Rename an object, whose age counts from now."""
        try:
            os.utime(source, dir_fd=root)
            self.rename(root, source, target)
        except FileNotFoundError:
            if _size(root, target) is None:
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
                self._synced.pop(folder, None)
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


def _inode(root: int, path: str) -> int | None:
    try:
        return os.stat(path, dir_fd=root, follow_symlinks=False).st_ino
    except files.MISSING:
        return None


def _size(root: int, path: str) -> int | None:
    """The size of a regular file, or None."""
    try:
        status = os.stat(path, dir_fd=root)
    except files.MISSING:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
