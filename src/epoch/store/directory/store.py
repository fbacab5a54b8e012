"""A store in a directory of the local file system: one file per object, at the object's key.

A reader never sees half an object: bytes are written to `_tmp/` or `_multipart/` below the root,
made durable with fsync(2), and renamed to the key. Calls that wait for the disk run in threads of
the store's own; only the stat, open and read of small files run on the loop.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from epoch.store.base import Multipart, ObjectInfo, ObjectTooLarge, Part, StoreError, replaced
from epoch.store.directory import files
from epoch.store.directory.names import INTERNAL, MULTIPART, TMP, UPLOAD_ID, path_of, upload_path
from epoch.store.directory.reader import FileReader, info_of
from epoch.store.directory.root import Root
from epoch.store.directory.threads import Threads
from epoch.store.directory.tree import Tree, above
from epoch.store.directory.walk import Walker

if TYPE_CHECKING:
    from typing_extensions import Buffer

_P = ParamSpec("_P")
_T = TypeVar("_T")

_INLINE: Final = 64 * 1024
"""Bytes up to which a whole object is read on the loop: 10 us from the page cache, where the hop
to a thread and back costs 40 more."""
_STALE: Final = 24 * 3600.0
"""Seconds after which a temporary file belongs to a process that is gone."""


class DirectoryStore:
    """`Store` over the directory `root`.

    `fsync`: whether an object is on the disk, not only in the page cache, when a call returns.
    `create`: whether `check` makes the directory where it is missing.
    """

    min_part_size = 1

    def __init__(self, root: Path, fsync: bool = True, create: bool = True) -> None:
        self._tree = Tree(fsync)
        self._root = Root(os.fspath(root), self._tree, create=create)
        self._threads = Threads()
        self._objects = Walker(self._root, self._threads, hidden=INTERNAL)
        self._uploads = Walker(self._root, self._threads, MULTIPART + "/")

    @property
    def description(self) -> str:
        """For the log line at start."""
        return f"directory {self._root.path}" + ("" if self._tree.fsync else " (without fsync)")

    async def _run(
        self,
        operation: str,
        call: Callable[Concatenate[int, _P], _T],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Run a blocking call within the root, in a thread."""

        def within() -> _T:
            with self._root.opened() as root:
                return call(root, *args, **kwargs)

        return await self._threads.run(operation, within)

    async def check(self) -> None:
        """Make the directory, or prove that it is still the same; prove that its file system can do
        what is needed; remove what a crash left."""
        operation = f"open {self._root.path}"
        await self._threads.run(operation, self._root.adopt)
        await self._run(operation, _remove_stale)

    async def head(self, key: str) -> ObjectInfo | None:
        """The object at `key`, or None."""
        path = path_of(key)
        with files.explained(f"head {key}"):
            root = self._root.open()
            try:
                status = os.stat(path, dir_fd=root)
            except files.MISSING:
                return None
            finally:
                os.close(root)
            return info_of(key, status) if stat.S_ISREG(status.st_mode) else None

    async def get(self, key: str, limit: int) -> bytes | None:
        """The whole object, or None where there is none. `StoreError` above `limit` bytes."""
        found = await self.fetch(key, limit)
        return None if found is None else found[1]

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """The same, and what is known about it."""
        with files.explained(f"get {key}"):
            opened = self._open(key)
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
            opened = self._open(key)
        if opened is None:
            yield None
            return
        fd, status = opened
        try:
            info = info_of(key, status)
            if etag not in ("", info.etag):
                raise replaced(key)
            yield FileReader(
                info, fd, start, stop, self._threads, can_sendfile=self._root.can_sendfile
            )
        finally:
            os.close(fd)

    def _open(self, key: str) -> tuple[int, os.stat_result] | None:
        path = path_of(key)
        root = self._root.open()
        try:
            return files.open_object(root, path)
        finally:
            os.close(root)

    async def put(self, key: str, data: Buffer) -> None:
        """Store `data` whole at `key`, replacing what is there, in one step for all readers."""
        path = path_of(key)
        with memoryview(data) as view:
            await self._run(f"put {key}", self._tree.write, path, view)

    async def put_new(self, key: str, data: Buffer) -> bool:
        """Store `data` at `key` if nothing is there; whether it was stored, now or before."""
        path = path_of(key)
        with memoryview(data) as view:
            return await self._run(f"put {key}", self._put_new, path, view)

    def _put_new(self, root: int, path: str, view: memoryview) -> bool:
        try:
            self._tree.write(root, path, view, replace=False)
        except FileExistsError:
            return files.read_whole(root, path, view.nbytes) == view.tobytes()
        return True

    async def make_durable(self, keys: Sequence[str]) -> None:
        """Sync the folders of these objects; every object's bytes were synced before it got its
        name."""
        folders = {above(path_of(key)) for key in keys}
        if folders:
            await self._run(f"sync {keys[0]}", self._tree.sync, folders)

    async def delete(self, key: str) -> None:
        """Remove the object; that there is none is no error."""
        await self._run(f"delete {key}", self._tree.remove, path_of(key))

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with `prefix` and is greater than `after`, in key order."""
        async for key, status in self._objects.walk(prefix, after):
            yield info_of(key, status)

    async def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object right below `prefix`, which ends in a slash, in key order."""
        path_of(prefix.removesuffix("/"))
        for key, status in await self._objects.files(prefix):
            yield info_of(key, status)

    async def names(self, prefix: str) -> Sequence[str]:
        """The names of the files right below `prefix`, which ends in a slash."""
        path_of(prefix.removesuffix("/"))
        return await self._objects.names(prefix)

    async def create_multipart(self, key: str) -> Multipart:
        """Begin a multipart upload: one file that the parts are written into at their offsets."""
        # The start time is part of the name: the file's own times change with every part.
        upload = Multipart(key, f"{time.time_ns():016x}{secrets.token_hex(8)}")
        await self._run(f"create upload of {key}", self._tree.create, upload_path(upload))
        return upload

    async def put_part(self, upload: Multipart, number: int, offset: int, data: Buffer) -> Part:
        """Store `data` as part `number`, whose first byte is byte `offset` of the object.

        The part's etag is its place, so that `complete_multipart` can see gaps.
        """
        path = upload_path(upload)
        with memoryview(data) as view:
            operation = f"put part {number} of {upload.key}"
            await self._run(operation, files.write_into, path, offset, view)
            return Part(number, view.nbytes, f"{offset:x}-{view.nbytes:x}")

    async def sync_parts(self, upload: Multipart) -> None:
        """Sync the file that the parts were written into."""
        await self._run(f"sync parts of {upload.key}", self._tree.sync_file, upload_path(upload))

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
        await self._run(f"complete {upload.key}", self._complete, upload, size)

    def _complete(self, root: int, upload: Multipart, size: int) -> None:
        source = upload_path(upload)
        self._tree.complete(root, source, path_of(upload.key), size)
        self._tree.remove_empty(root, above(source), MULTIPART)

    async def abort_multipart(self, upload: Multipart) -> None:
        """Give up an upload and free its space; that there is none is no error."""
        path = upload_path(upload)
        await self._run(f"abort {upload.key}", self._tree.remove, path, MULTIPART)

    async def list_multiparts(self, prefix: str) -> AsyncIterator[tuple[Multipart, float]]:
        """Every upload in progress whose key starts with `prefix`, and its start (Unix seconds)."""
        async for path, _ in self._uploads.walk(prefix):
            key, _, upload_id = path.rpartition("/")
            if key.startswith(prefix) and UPLOAD_ID.fullmatch(upload_id):
                yield Multipart(key, upload_id), int(upload_id[:16], 16) / 1e9

    async def presign(self, key: str, expires: int) -> str | None:  # noqa: ARG002 - the interface
        """None: there is nobody but us to serve a directory."""
        return None

    async def move(self, source: str, target: str, size: int) -> None:
        """Rename an object of `size` bytes; repeating it is no error."""
        old, new = path_of(source), path_of(target)
        await self._run(f"move {source} to {target}", self._move, old, new, size)

    def _move(self, root: int, old: str, new: str, size: int) -> None:
        self._tree.move(root, old, new, size)
        self._tree.remove_empty(root, above(old))

    async def close(self) -> None:
        """End the threads."""
        self._threads.close()


def _remove_stale(root: int) -> None:
    """Temporary files of processes that were killed."""
    now = time.time()
    fd = os.open(TMP, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                # Another process may be removing the same file.
                with contextlib.suppress(FileNotFoundError):
                    if now - entry.stat(follow_symlinks=False).st_mtime > _STALE:
                        os.unlink(entry.name, dir_fd=fd)
    finally:
        os.close(fd)
