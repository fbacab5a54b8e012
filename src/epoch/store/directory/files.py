"""What the directory store does to single files: blocking calls.

Every path is relative to an open descriptor of the root, `root`: whatever happens to the mount or
to the directory's name meanwhile, the call stays within the directory that was opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
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
    errno.ESTALE: ("the file system is gone: mount it again", 5.0),
    errno.ENOTCONN: ("the file system is gone: mount it again", 5.0),
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

_DENIED: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_NO_UPLOAD: Final = "no such upload: it was aborted or has expired"


class Refused(Exception):
    """What is wrong and what to do, without the operation: `explained` puts that before it.

    `retry_after`: as in `StoreError`.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UploadGone(Refused):
    """`UploadLost`, without the operation."""


@contextlib.contextmanager
def explained(operation: str) -> Iterator[None]:
    """Turn a failure into a `StoreError` that names the operation and says what to do."""
    try:
        yield
    except UploadGone as error:
        raise UploadLost(f"{operation}: {error}") from error
    except Refused as error:
        raise StoreError(f"{operation}: {error}", retry_after=error.retry_after) from error
    except OSError as error:
        text, retry_after = _ADVICE.get(error.errno or 0, (error.strerror or "I/O error", None))
        raise StoreError(
            f"{operation}: {text}", retry_after=retry_after, denied=error.errno in _DENIED
        ) from error


def open_object(root: int, path: str) -> tuple[int, os.stat_result] | None:
    """Open a regular file for reading, or None where there is none."""
    try:
        # O_NONBLOCK: a fifo that somebody put there must not hold the loop.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=root)
    except MISSING:
        return None
    try:
        status = os.fstat(fd)
    except BaseException:
        os.close(fd)
        raise
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return None
    return fd, status


def read_whole(root: int, path: str, limit: int) -> bytes | None:
    """A whole file, or None where there is none or where it is larger than `limit` bytes."""
    opened = open_object(root, path)
    if opened is None:
        return None
    fd, status = opened
    try:
        return read_at(fd, 0, status.st_size) if status.st_size <= limit else None
    finally:
        os.close(fd)


def create(root: int, path: str) -> int:
    """Open a new file for writing. FileNotFoundError: its directory is missing."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root)


def write_into(root: int, path: str, offset: int, data: memoryview) -> None:
    """Write `data` at `offset` of a multipart upload's file; `Refused` where there is none."""
    # Open for reading as well: NFS takes LOCK_SH for nothing else (flock(2)).
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        raise no_upload() from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not _is_at(root, path, fd):
            raise Refused("the upload has been completed")
        write_at(fd, offset, data)
    finally:
        os.close(fd)


def drain(root: int, path: str, fsync: bool) -> None:
    """Wait until nobody, in whatever process, writes into a file that was renamed to `path`."""
    try:
        # Open for writing: NFS takes LOCK_EX for nothing else (flock(2)).
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        return  # moved on already
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if fsync:
            os.fsync(fd)  # what was written since `finish`
    finally:
        os.close(fd)


def _is_at(root: int, path: str, fd: int) -> bool:
    try:
        found = os.stat(path, dir_fd=root)
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
    """`count` bytes at `offset`; `Refused` where the file has become shorter than that."""
    data = os.pread(fd, count, offset)
    if len(data) == count:
        return data
    chunks = [data]
    while data and (count := count - len(data)):
        offset += len(data)
        data = os.pread(fd, count, offset)
        chunks.append(data)
    if not data:
        raise Refused("the file ended early: something else has cut it")
    return b"".join(chunks)


def finish(root: int, path: str, size: int, fsync: bool) -> None:
    """Cut a file to `size` and make it durable; `Refused` where it is shorter."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
    try:
        found = os.fstat(fd).st_size
        if found < size:
            raise UploadGone(f"{found} bytes of {size} are there: a part is missing")
        if found > size:
            os.ftruncate(fd, size)
        # Its age counts from when it is there, not from its last part.
        os.utime(fd)
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(root: int, path: str) -> None:
    """fsync(2) a multipart upload's file; `Refused` where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        raise no_upload() from None
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(root: int, folder: str) -> bool:
    """fsync(2) a directory, so that its entries outlive a crash; False where there is none."""
    try:
        fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        return False
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def no_upload() -> UploadGone:
    """There is no such multipart upload."""
    return UploadGone(_NO_UPLOAD)
