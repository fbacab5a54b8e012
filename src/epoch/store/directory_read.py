"""An open file of the directory store."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from typing import Final

from epoch.store.base import ObjectInfo
from epoch.store.directory_files import MISSING, read_at
from epoch.store.directory_threads import Threads

_CHUNK: Final = 64 * 1024
"""Bytes given at a time: a client that does not read holds one of them."""

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)


def info_of(key: str, status: os.stat_result) -> ObjectInfo:
    """The etag changes whenever the file is replaced: every object is written as a new file."""
    etag = f'"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"'
    return ObjectInfo(key, status.st_size, etag, status.st_mtime)


def open_object(path: str) -> tuple[int, os.stat_result] | None:
    """Open a regular file for reading, or None where there is none."""
    try:
        # O_NONBLOCK: a fifo that somebody put there must not hold the loop.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except MISSING:
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return None
    return fd, status


class FileReader:
    """`ObjectReader` over an open file, which its opener closes."""

    def __init__(
        self, info: ObjectInfo, fd: int, start: int, stop: int | None, threads: Threads
    ) -> None:
        self.info = info
        self._fd = fd
        self._start = start
        self._stop = info.size if stop is None else stop
        self._threads = threads

    def fileno(self) -> int:
        """The open file. Its position is not used."""
        return self._fd

    def take_socket(self) -> None:
        """None: there is no socket."""
        return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        operation = f"read {self.info.key}"
        for offset in range(self._start, self._stop, _CHUNK):
            count = min(_CHUNK, self._stop - offset)
            data = _read_cached(self._fd, offset, count)
            if data is None:
                data = await self._threads.run(operation, read_at, self._fd, offset, count)
            yield data


def _read_cached(fd: int, offset: int, count: int) -> bytes | None:
    """`count` bytes, if the page cache has them: that is faster than the way to a thread and back.
    None where it has not, or where the kernel cannot tell (preadv2(2), RWF_NOWAIT)."""
    if not _NOWAIT:
        return None
    buffer = bytearray(count)
    try:
        found = os.preadv(fd, (buffer,), offset, _NOWAIT)
    except OSError:
        return None
    return bytes(buffer) if found == count else None
