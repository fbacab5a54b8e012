"""A store in memory, whose whole state can be copied and put back: what tests of interleavings
need. The contract suite runs over it as over the real ones."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from epoch.store.base import (
    Multipart,
    ObjectInfo,
    ObjectTooLarge,
    Part,
    StoreError,
    UploadLost,
    replaced,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Item(NamedTuple):
    """One object. Two items that are equal cannot be told apart by anybody."""

    data: bytes
    modified: float


@dataclass
class _Upload:
    key: str
    began: float
    parts: dict[int, tuple[bytes, str]] = field(default_factory=dict)


class MemoryStore:
    """`Store` over a dictionary. No call ever waits, so each is one step.

    Etags are quoted MD5 sums, as those of most S3 stores. `clock`: gives the time of writes.
    """

    description = "memory"
    min_part_size = 1

    def __init__(
        self, objects: Mapping[str, Item] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.objects = dict(objects or {})
        self._clock = clock
        self._uploads: dict[str, _Upload] = {}

    async def check(self) -> None:
        """Nothing to prove."""

    async def head(self, key: str) -> ObjectInfo | None:
        item = self.objects.get(key)
        return None if item is None else _info(key, item)

    async def get(self, key: str, limit: int) -> bytes | None:
        found = await self.fetch(key, limit)
        return None if found is None else found[1]

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        item = self.objects.get(key)
        if item is None:
            return None
        if len(item.data) > limit:
            raise ObjectTooLarge(f"get {key}: {len(item.data)} bytes", len(item.data))
        return _info(key, item), item.data

    @asynccontextmanager
    async def open(
        self, key: str, start: int = 0, stop: int | None = None, *, etag: str = ""
    ) -> AsyncIterator[_Reader | None]:
        item = self.objects.get(key)
        if item is None:
            yield None
            return
        info = _info(key, item)
        if etag and etag != info.etag:
            raise replaced(key)
        reader = _Reader(info, item.data, start, stop)
        try:
            yield reader
        finally:
            reader.close()

    async def put(self, key: str, data: Buffer) -> None:
        self.objects[key] = Item(bytes(data), self._clock())

    async def put_new(self, key: str, data: Buffer) -> bool:
        if key in self.objects:
            return False
        await self.put(key, data)
        return True

    async def make_durable(self, keys: Sequence[str]) -> None:
        """Nothing outlives this process."""

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        for info in self.listed(prefix, after):
            yield info

    async def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for info in self.listed(prefix):
            if "/" not in info.key[len(prefix) :]:
                yield info

    async def names(self, prefix: str) -> Sequence[str]:
        return [info.key[len(prefix) :] async for info in self.list_folder(prefix)]

    def listed(self, prefix: str, after: str = "") -> Sequence[ObjectInfo]:
        """What `list` gives, as it is at one moment."""
        last = after.encode()
        found = [key for key in self.objects if key.startswith(prefix) and key.encode() > last]
        return [_info(key, self.objects[key]) for key in sorted(found, key=str.encode)]

    async def create_multipart(self, key: str) -> Multipart:
        upload = Multipart(key, secrets.token_hex(8))
        self._uploads[upload.upload_id] = _Upload(key, self._clock())
        return upload

    async def put_part(self, upload: Multipart, number: int, offset: int, data: Buffer) -> Part:
        content = bytes(data)
        etag = hashlib.md5(content).hexdigest()
        self._upload(upload).parts[number] = (content, etag)
        return Part(number, len(content), etag)

    async def sync_parts(self, upload: Multipart) -> None:
        """Nothing outlives this process."""

    async def complete_multipart(self, upload: Multipart, parts: Sequence[Part]) -> None:
        known = self._uploads.get(upload.upload_id)
        if known is None:
            item = self.objects.get(upload.key)
            if item is None or len(item.data) != sum(part.size for part in parts):
                raise UploadLost(f"complete {upload.key}: no such upload")
            return
        if any(known.parts.get(part.number, (b"", ""))[1] != part.etag for part in parts):
            raise UploadLost(f"complete {upload.key}: not its parts")
        data = b"".join(known.parts[part.number][0] for part in parts)
        self.objects[upload.key] = Item(data, known.began)
        del self._uploads[upload.upload_id]

    async def abort_multipart(self, upload: Multipart) -> None:
        self._uploads.pop(upload.upload_id, None)

    async def list_multiparts(self, prefix: str) -> AsyncIterator[tuple[Multipart, float]]:
        for upload_id, upload in list(self._uploads.items()):
            if upload.key.startswith(prefix):
                yield Multipart(upload.key, upload_id), upload.began

    async def presign(self, key: str, expires: int) -> str | None:
        return None

    async def move(self, source: str, target: str, size: int) -> None:
        item = self.objects.get(source)
        if item is None:
            moved = self.objects.get(target)
            if moved is None or len(moved.data) != size:
                raise StoreError(f"move {source}: the source does not exist", retry_after=None)
            return
        if len(item.data) != size:
            raise StoreError(f"move {source}: it has {len(item.data)} bytes", retry_after=None)
        del self.objects[source]
        self.objects[target] = Item(item.data, self._clock())

    async def close(self) -> None:
        """Nothing to close."""

    def _upload(self, upload: Multipart) -> _Upload:
        known = self._uploads.get(upload.upload_id)
        if known is None:
            raise UploadLost(f"no such upload of {upload.key}")
        return known


class _Reader:
    def __init__(self, info: ObjectInfo, data: bytes, start: int, stop: int | None) -> None:
        self.info = info
        self._data = data
        self._span = slice(start, stop)
        self._fd = -1

    def fileno(self) -> int:
        if self._fd < 0:
            self._fd = os.memfd_create("object")
            os.pwrite(self._fd, self._data, 0)
        return self._fd

    def take_socket(self) -> None:
        return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in filter(None, [self._data[self._span]]):
            yield chunk

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def etag_of(data: bytes) -> str:
    """The etag of an object with this content."""
    return f'"{hashlib.md5(data).hexdigest()}"'


def _info(key: str, item: Item) -> ObjectInfo:
    return ObjectInfo(key, len(item.data), etag_of(item.data), item.modified)
