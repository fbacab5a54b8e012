"""What the file system of the directory store must be able to do, tried once at start.

Network file systems, and those in user space, often lack one of these calls. Found out by the first
push, that is an error which nobody understands.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from typing import Final

from epoch.store.directory import files
from epoch.store.directory.names import TMP

_DATA: Final = b"epoch"
_OFFSET: Final = 1 << 20
_ELSEWHERE: Final = "use a directory on another file system, or a bucket (EPOCH_S3_*)"
_OTHER_REASONS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EMFILE, errno.ENFILE}
)
"""Errors that say nothing about what the file system can do."""


def probe(root: int) -> bool:
    """Try all that objects are stored with, in `_tmp/`; `Refused` names the call that fails.

    Returns whether sendfile(2) works: there is a way without it.
    """
    name = f"{TMP}/probe-{secrets.token_hex(8)}"
    fd = files.create(root, name)
    try:
        _write(root, name, fd)
        _lock(root, name, fd)
        _name(root, name)
        return _can_sendfile(root, f"{name}-c")
    finally:
        os.close(fd)
        for path in (name, f"{name}-b", f"{name}-c"):
            with contextlib.suppress(OSError):
                os.unlink(path, dir_fd=root)


def _write(root: int, name: str, fd: int) -> None:
    with _needed("write(2) at any offset, which parts of a push need"):
        files.write_at(fd, _OFFSET, _DATA)
        files.write_at(fd, 0, _DATA)
    with _needed("ftruncate(2), which pushes need"):
        os.ftruncate(fd, len(_DATA))
    with _needed("utimensat(2), which garbage collection needs"):
        os.utime(fd)
    with _needed("fsync(2) of a file, without which a power cut takes what was stored"):
        os.fsync(fd)
    with _needed("fsync(2) of a directory, without which a power cut takes what was stored"):
        files.sync_folder(root, TMP)
    with _needed("open(2) with O_EXCL, which two processes need"):
        try:
            os.close(files.create(root, name))
        except FileExistsError:
            return
        raise _fails("it made a file that was there")


def _lock(root: int, name: str, fd: int) -> None:
    with _needed("flock(2), which several processes need"):
        other = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=root)
        try:
            fcntl.flock(other, fcntl.LOCK_SH)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            raise _fails("it excludes nobody")
        finally:
            os.close(other)


def _name(root: int, name: str) -> None:
    """Names that are made, replaced and not replaced. Leaves the file at `<name>-c`."""
    second, third = f"{name}-b", f"{name}-c"
    with _needed("link(2), which makes a name only where none is: upload sessions need that"):
        os.link(name, second, src_dir_fd=root, dst_dir_fd=root)
        try:
            os.link(name, second, src_dir_fd=root, dst_dir_fd=root)
        except FileExistsError:
            pass
        else:
            raise _fails("it replaces a file that is there")
    os.close(files.create(root, third))
    with _needed("rename(2) over a file that is there, which every push needs"):
        os.rename(second, third, src_dir_fd=root, dst_dir_fd=root)
        if files.read_whole(root, third, len(_DATA)) != _DATA:
            raise _fails("what was there before is still read")
    with contextlib.suppress(FileNotFoundError):
        os.stat(f"{TMP}/{third.removeprefix(TMP + '/').upper()}", dir_fd=root)
        raise files.Refused(
            "the file system takes upper and lower case for the same, so that the tags V1 and v1 "
            f"would be one: {_ELSEWHERE}"
        )


def _can_sendfile(root: int, name: str) -> bool:
    opened = files.open_object(root, name)
    if opened is None:
        return False
    near, far = socket.socketpair()
    try:
        return os.sendfile(near.fileno(), opened[0], 0, len(_DATA)) == len(_DATA)
    except OSError:
        return False
    finally:
        near.close()
        far.close()
        os.close(opened[0])


@contextlib.contextmanager
def _needed(call: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _OTHER_REASONS:
            raise
        why = error.strerror
        raise files.Refused(f"the file system refuses {call} ({why}): {_ELSEWHERE}") from error


def _fails(how: str) -> OSError:
    return OSError(0, how)
