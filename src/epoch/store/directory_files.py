"""What the directory store does to files: durable writes, renames, removals; blocking calls."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from typing import Final

from epoch.store.base import StoreError, UploadLost

MISSING: Final = (FileNotFoundError, NotADirectoryError)
"""There is no object at that key."""

_ADVICE: Final = {
    errno.ENOSPC: ("no space is left on the device: free some or enlarge it", 60.0),
    errno.EDQUOT: ("the disk quota is used up: free some space or raise it", 60.0),
    errno.EROFS: ("the file system is read-only: check the disk and its mount", None),
    errno.EIO: ("the disk failed: see the kernel's log", None),
    errno.EACCES: ("permission denied: the directory must belong to the registry's user", None),
    errno.EPERM: ("permission denied: the directory must belong to the registry's user", None),
    errno.EMFILE: ("too many open files: raise the limit (ulimit -n)", 1.0),
    errno.ENFILE: ("too many open files in the whole system", 1.0),
    errno.ENAMETOOLONG: ("the name is too long for this file system", None),
    errno.EISDIR: ("a directory lies where the object should: the names collide", None),
    errno.ENOTDIR: ("an object lies where a directory should: the names collide", None),
    errno.EEXIST: ("an object lies where a directory should: the names collide", None),
    errno.ENOTEMPTY: ("a directory lies where the object should: the names collide", None),
    errno.EFBIG: ("the object is too large for this file system", None),
}


@contextlib.contextmanager
def explained(operation: str) -> Iterator[None]:
    """Turn an `OSError` into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        text, retry_after = _ADVICE.get(error.errno or 0, (error.strerror or "I/O error", None))
        raise StoreError(f"{operation}: {text}", retry_after=retry_after) from error


def write_whole(path: str, data: bytes | memoryview, fsync: bool) -> None:
    """Write a new file, durably if so asked. Its directory is not synced: it is to be renamed."""
    fd = _create(path)
    try:
        write_at(fd, 0, data)
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def create(path: str) -> None:
    """Make a new empty file, and the directories above it."""
    os.close(_create(path))


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        try:
            return os.open(path, flags, 0o644)
        except FileNotFoundError:
            # The directory is made when it is missed; `remove_empty` may take it away in between.
            with contextlib.suppress(FileNotFoundError):
                os.makedirs(os.path.dirname(path), exist_ok=True)


def write_into(path: str, offset: int, data: memoryview) -> None:
    """Write `data` at `offset` of a file that exists; `StoreError` where it does not."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UploadLost("put part: no such upload: it was aborted or has expired") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not _is_at(path, fd):
            raise StoreError("put part: the upload has been completed", retry_after=None)
        write_at(fd, offset, data)
    finally:
        os.close(fd)


def drain(path: str) -> None:
    """Wait until nobody, in whatever process, writes into a file that was renamed to `path`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # moved on already
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def _is_at(path: str, fd: int) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))


def write_at(fd: int, offset: int, data: bytes | memoryview) -> None:
    """pwrite(2) all of `data`; leaves no view of it."""
    done = 0
    with memoryview(data).cast("B") as view:
        while done < view.nbytes:
            with view[done:] as rest:
                done += os.pwrite(fd, rest, offset + done)


def read_at(fd: int, offset: int, count: int) -> bytes:
    """`count` bytes at `offset`; `StoreError` where the file has become shorter than that."""
    data = os.pread(fd, count, offset)
    if len(data) == count:
        return data
    chunks = [data]
    while data and (count := count - len(data)):
        offset += len(data)
        data = os.pread(fd, count, offset)
        chunks.append(data)
    if not data:
        raise StoreError("read: the file ended early: something else has cut it", retry_after=None)
    return b"".join(chunks)


def finish(path: str, size: int, fsync: bool) -> None:
    """Cut a file to `size` and make it durable; `StoreError` where it is shorter."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd).st_size
        if found < size:
            raise UploadLost(f"complete: {found} bytes of {size} are there: a part is missing")
        if found > size:
            os.ftruncate(fd, size)
        # Its age counts from when it is there, not from its last part.
        os.utime(fd)
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def rename(source: str, target: str, root: str, fsync: bool, *, replace: bool = True) -> None:
    """Rename, make the directories above `target`, sync them; FileNotFoundError: no source.

    Without `replace`: FileExistsError where `target` is there.
    """
    folder = os.path.dirname(target)
    made = _missing(folder, root)
    while True:
        try:
            if replace:
                os.rename(source, target)
            else:
                os.link(source, target)
                os.unlink(source)
            break
        except FileNotFoundError:
            if not os.path.lexists(source):
                raise
            made = _missing(folder, root) or made
            # `remove_empty` may take away what this makes, even while it makes it.
            with contextlib.suppress(FileNotFoundError):
                os.makedirs(folder, exist_ok=True)
    if fsync:
        # A new directory lasts only once the one above it is synced too.
        for changed in (folder, *(os.path.dirname(path) for path in made)):
            with contextlib.suppress(FileNotFoundError):
                sync_folder(changed)


def _missing(folder: str, root: str) -> list[str]:
    """`folder` and the directories above it, below `root`, that do not exist yet."""
    found = []
    while len(folder) > len(root) and not os.path.isdir(folder):
        found.append(folder)
        folder = os.path.dirname(folder)
    return found


def sync_folder(path: str) -> None:
    """fsync(2) a directory, so that its entries outlive a crash."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str, root: str, fsync: bool) -> None:
    """Remove a file, if it is there, and the directories that it leaves empty."""
    try:
        os.unlink(path)
    except (*MISSING, IsADirectoryError):
        return
    folder = os.path.dirname(path)
    if fsync:
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)
    remove_empty(folder, root)


def remove_empty(folder: str, root: str) -> None:
    """Remove `folder` and the directories above it, below `root`, as far as they are empty."""
    with contextlib.suppress(OSError):
        while len(folder) > len(root):
            os.rmdir(folder)
            folder = os.path.dirname(folder)
