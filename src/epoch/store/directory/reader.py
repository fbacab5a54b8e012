"""An open file of the directory store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Final

from epoch.store.base import ObjectInfo
from epoch.store.directory.files import read_at
from epoch.store.directory.threads import Threads

_CHUNK: Final = 64 * 1024
"""Bytes given at a time: a client that does not read holds one of them."""

_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)


def info_of(key: str, status: os.stat_result) -> ObjectInfo:
    """The etag changes whenever the file is replaced: every object is written as a new file."""
    etag = f'"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"'
    return ObjectInfo(key, status.st_size, etag, status.st_mtime)


class FileReader:
    """`ObjectReader` over an open file, which its opener closes.

    `can_sendfile`: whether sendfile(2) takes it.
    """

    def __init__(
        self,
        info: ObjectInfo,
        fd: int,
        start: int,
        stop: int | None,
        threads: Threads,
        *,
        can_sendfile: bool,
    ) -> None:
        self.info = info
        self._fd = fd
        self._start = start
        self._stop = info.size if stop is None else stop
        self._threads = threads
        self._can_sendfile = can_sendfile

    def fileno(self) -> int | None:
        """The open file, for sendfile(2), or None. Its position is not used."""
        return self._fd if self._can_sendfile else None

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
