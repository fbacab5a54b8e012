"""A store in a directory of the local file system: one file per object, at the object's key.

A reader never sees half an object: bytes are written to `_tmp/` or `_multipart/` below the root,
made durable with fsync(2), and renamed to the key. Calls that wait for the disk run in threads of
the store's own; only the stat, open and read of small files run on the loop.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from epoch.store import directory_files as files
from epoch.store.base import Multipart, ObjectInfo, ObjectTooLarge, Part, StoreError, replaced
from epoch.store.directory_read import FileReader, info_of, open_object
from epoch.store.directory_threads import Threads
from epoch.store.directory_walk import files_in, names_in, walk

if TYPE_CHECKING:
    from typing_extensions import Buffer

_TMP: Final = "_tmp"
_MULTIPART: Final = "_multipart"
_INLINE: Final = 64 * 1024
"""Bytes up to which a whole object is read on the loop: 10 us from the page cache, where the hop
to a thread and back costs 40 more."""
_STALE: Final = 24 * 3600.0
"""Seconds after which a temporary file belongs to a process that is gone."""
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class DirectoryStore:
    """`Store` over the directory `root`, which is made by `check` if need be.

    `fsync`: whether an object is on the disk, not only in the page cache, when a call returns.
    """

    min_part_size = 1

    def __init__(self, root: Path, fsync: bool = True) -> None:
        self._root = os.path.abspath(root)
        self._fsync = fsync
        self._threads = Threads()

    @property
    def description(self) -> str:
        """For the log line at start."""
        return f"directory {self._root}" + ("" if self._fsync else " (without fsync)")

    async def check(self) -> None:
        """Make the directory, prove that it can be written to, and remove what a crash left."""
        await self._threads.run(f"open {self._root}", self._check)

    def _check(self) -> None:
        folder = os.path.join(self._root, _TMP)
        os.makedirs(folder, exist_ok=True)
        now = time.time()
        with os.scandir(folder) as entries:
            for entry in entries:
                # Another process may be removing the same file.
                with contextlib.suppress(FileNotFoundError):
                    if now - entry.stat(follow_symlinks=False).st_mtime > _STALE:
                        os.unlink(entry.path)
        probe = self._temporary()
        files.write_whole(probe, b"epoch", self._fsync)
        os.unlink(probe)

    async def head(self, key: str) -> ObjectInfo | None:
        """The object at `key`, or None."""
        path = self._path(key)
        with files.explained(f"head {key}"):
            try:
                status = os.stat(path)
            except files.MISSING:
                return None
            return info_of(key, status) if stat.S_ISREG(status.st_mode) else None

    async def get(self, key: str, limit: int) -> bytes | None:
        """The whole object, or None where there is none. `StoreError` above `limit` bytes."""
        found = await self.fetch(key, limit)
        return None if found is None else found[1]

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """The same, and what is known about it."""
        with files.explained(f"get {key}"):
            opened = open_object(self._path(key))
            if opened is None:
                return None
            fd, status = opened
            try:
                size = status.st_size
                if size > limit:
                    raise ObjectTooLarge(
                        f"get {key}: {size} bytes, where at most {limit} were expected", size
                    )
                if size <= _INLINE:
                    return info_of(key, status), files.read_at(fd, 0, size)
                data = await self._threads.run(f"get {key}", files.read_at, fd, 0, size)
                return info_of(key, status), data
            finally:
                os.close(fd)

    @contextlib.asynccontextmanager
    async def open(
        self, key: str, start: int = 0, stop: int | None = None, *, etag: str = ""
    ) -> AsyncIterator[FileReader | None]:
        """Open bytes `start` to `stop` (exclusive; None: to the end); None where no object is."""
        with files.explained(f"open {key}"):
            opened = open_object(self._path(key))
        if opened is None:
            yield None
            return
        fd, status = opened
        try:
            info = info_of(key, status)
            if etag not in ("", info.etag):
                raise replaced(key)
            yield FileReader(info, fd, start, stop, self._threads)
        finally:
            os.close(fd)

    async def put(self, key: str, data: Buffer) -> None:
        """Store `data` whole at `key`, replacing what is there, in one step for all readers."""
        path = self._path(key)
        with memoryview(data) as view:
            await self._threads.run(f"put {key}", self._put, path, view)

    async def put_new(self, key: str, data: Buffer) -> bool:
        """Store `data` at `key` if nothing is there; whether it was stored."""
        path = self._path(key)
        with memoryview(data) as view:
            return await self._threads.run(f"put {key}", self._put_new, path, view)

    def _put_new(self, path: str, view: memoryview) -> bool:
        try:
            self._put(path, view, replace=False)
        except FileExistsError:
            return False
        return True

    def _put(self, path: str, view: memoryview, *, replace: bool = True) -> None:
        temporary = self._temporary()
        try:
            files.write_whole(temporary, view, self._fsync)
            files.rename(temporary, path, self._root, self._fsync, replace=replace)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    async def delete(self, key: str) -> None:
        """Remove the object; that there is none is no error."""
        path = self._path(key)
        await self._threads.run(f"delete {key}", files.remove, path, self._root, self._fsync)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with `prefix` and is greater than `after`, in key order."""
        hidden = frozenset({_TMP, _MULTIPART})
        async for key, status in walk(self._threads, self._root, prefix, after, hidden):
            yield info_of(key, status)

    async def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object right below `prefix`, which ends in a slash, in key order."""
        self._path(prefix.removesuffix("/"))
        operation = f"list {prefix}"
        for key, status in await self._threads.run(operation, files_in, self._root, prefix):
            yield info_of(key, status)

    async def names(self, prefix: str) -> Sequence[str]:
        """The names of the files right below `prefix`, which ends in a slash."""
        path = self._path(prefix.removesuffix("/"))
        return await self._threads.run(f"list {prefix}", names_in, path)

    async def create_multipart(self, key: str) -> Multipart:
        """Begin a multipart upload: one file that the parts are written into at their offsets."""
        # The start time is part of the name: the file's own times change with every part.
        upload = Multipart(key, f"{time.time_ns():016x}{secrets.token_hex(8)}")
        path = self._upload_path(upload)
        await self._threads.run(f"create upload of {key}", files.create, path)
        return upload

    async def put_part(self, upload: Multipart, number: int, offset: int, data: Buffer) -> Part:
        """Store `data` as part `number`, whose first byte is byte `offset` of the object.

        The part's etag is its place, so that `complete_multipart` can see gaps.
        """
        path = self._upload_path(upload)
        with memoryview(data) as view:
            operation = f"put part {number} of {upload.key}"
            await self._threads.run(operation, files.write_into, path, offset, view)
            return Part(number, view.nbytes, f"{offset:x}-{view.nbytes:x}")

    async def complete_multipart(self, upload: Multipart, parts: Sequence[Part]) -> None:
        """Make the object visible. Safe to repeat."""
        size = 0
        for part in parts:
            if part.etag != f"{size:x}-{part.size:x}":
                raise StoreError(
                    f"complete {upload.key}: part {part.number} does not begin where the one "
                    "before it ends",
                    retry_after=None,
                )
            size += part.size
        await self._threads.run(f"complete {upload.key}", self._complete, upload, size)

    def _complete(self, upload: Multipart, size: int) -> None:
        source, target = self._upload_path(upload), self._path(upload.key)
        try:
            files.finish(source, size, self._fsync)
            files.rename(source, target, self._root, self._fsync)
            files.drain(target)
        except FileNotFoundError:
            # Completed before, and the answer was lost.
            with contextlib.suppress(*files.MISSING):
                if os.stat(target).st_size == size:
                    files.drain(target)
                    return
            raise StoreError(
                f"complete {upload.key}: no such upload: it was aborted or has expired",
                retry_after=None,
            ) from None
        files.remove_empty(os.path.dirname(source), os.path.join(self._root, _MULTIPART))

    async def abort_multipart(self, upload: Multipart) -> None:
        """Give up an upload and free its space; that there is none is no error."""
        path = self._upload_path(upload)
        root = os.path.join(self._root, _MULTIPART)
        await self._threads.run(f"abort {upload.key}", files.remove, path, root, False)

    async def list_multiparts(self, prefix: str) -> AsyncIterator[tuple[Multipart, float]]:
        """Every upload in progress whose key starts with `prefix`, and its start (Unix seconds)."""
        root = os.path.join(self._root, _MULTIPART)
        async for path, _ in walk(self._threads, root, prefix, "", frozenset()):
            key, _, upload_id = path.rpartition("/")
            if key.startswith(prefix) and _UPLOAD_ID.fullmatch(upload_id):
                yield Multipart(key, upload_id), int(upload_id[:16], 16) / 1e9

    async def presign(self, key: str, expires: int) -> str | None:  # noqa: ARG002 - the interface
        """None: there is nobody but us to serve a directory."""
        return None

    async def move(self, source: str, target: str) -> None:
        """Rename an object; repeating it is no error."""
        operation = f"move {source} to {target}"
        await self._threads.run(operation, self._move, source, target)

    def _move(self, source: str, target: str) -> None:
        old, new = self._path(source), self._path(target)
        try:
            os.utime(old)  # its age counts from when it is there
            files.rename(old, new, self._root, self._fsync)
        except FileNotFoundError:
            if os.path.isfile(new):
                return
            raise StoreError(
                f"move {source} to {target}: the source does not exist", retry_after=None
            ) from None
        files.remove_empty(os.path.dirname(old), self._root)

    async def close(self) -> None:
        """End the threads."""
        self._threads.close()

    def _temporary(self) -> str:
        return os.path.join(self._root, _TMP, secrets.token_hex(16))

    def _path(self, key: str) -> str:
        names = key.split("/")
        # Keys come validated; this is the last line of defence against leaving the root.
        if (
            "\0" in key
            or any(n in ("", ".", "..") for n in names)
            or names[0] in (_TMP, _MULTIPART)
        ):
            raise StoreError(f"not an object key: {key!r}", retry_after=None)
        return os.path.join(self._root, *names)

    def _upload_path(self, upload: Multipart) -> str:
        self._path(upload.key)
        if _UPLOAD_ID.fullmatch(upload.upload_id) is None:
            raise StoreError(f"not an upload of {upload.key}", retry_after=None)
        return os.path.join(self._root, _MULTIPART, *upload.key.split("/"), upload.upload_id)
