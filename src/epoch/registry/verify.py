"""Reads everything back from the store and compares it with its digest: `epoch verify`."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from epoch import layout, log
from epoch._fastio import Sha256
from epoch.garbage.pins import TIMES, Pins, Times
from epoch.oci.digest import HEX_LENGTH, Digest
from epoch.progress import Progress
from epoch.registry.proof import (
    Unproved,
    has_copy,
    read_proved,
)
from epoch.store.base import ObjectInfo, Store, StoreError
from epoch.store.etags import is_md5_of

PIECE: Final = 1024 * 1024
"""Bytes that are hashed at once, in a thread; two of them are held for each object."""
_AHEAD: Final = 1000
"""Objects that may be done while an earlier one, which is larger, is still being read."""
_OF_TAG: Final = "the digest of a manifest of its repository"
_PLACES: Final = (*map(layout.blobs, HEX_LENGTH), layout.MANIFESTS)


@dataclass(frozen=True, slots=True)
class Damage:
    """An object that is not what it should be. `expected`: its digest, or what else would prove
    it; `found`: what its bytes have instead, or why there are none; `size`: bytes that it has."""

    key: str
    expected: str
    found: str
    size: int
    removed: bool = False


@dataclass(slots=True)
class Verified:
    """What was done. `last`: all up to this key is, in the order of a run."""

    blobs: int = 0
    blob_bytes: int = 0
    manifests: int = 0
    damaged: int = 0
    removed: int = 0
    last: str = ""
    failure: str = ""
    """Why it did not come to its end; empty where it did."""


class Verifier:
    """Reads blobs, copies of manifests by digest, and tags, in this order."""

    def __init__(self, store: Store, *, parallel: int, remove: bool, times: Times = TIMES) -> None:
        """`parallel`: objects that are read at once, with 3 MiB each. `remove`: delete blobs that
        are damaged; else nothing is written. Manifests are never removed."""
        self.report = Verified()
        self._store = store
        self._places = asyncio.Semaphore(parallel)
        self._pins = Pins(store, times) if remove else None

    async def run(self, after: str, progress: Progress, found: Callable[[Damage], None]) -> None:
        """Verify what comes after the key `after` (empty: all), and tell `found` of each damage in
        order. `StoreError` where the store as a whole fails."""
        self.report.last = after
        pending: deque[tuple[ObjectInfo, asyncio.Task[Damage | None]]] = deque()

        async def finish() -> None:
            info, task = pending[0]
            damage = await task
            pending.popleft()
            self._count(info, damage, progress)
            if damage is not None:
                found(damage)

        try:
            async for info in self._objects(after):
                pending.append((info, asyncio.create_task(self._verify(info))))
                while len(pending) == _AHEAD or (pending and pending[0][1].done()):
                    await finish()
            while pending:
                await finish()
        finally:
            left = [task for _, task in pending]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _objects(self, after: str) -> AsyncIterator[ObjectInfo]:
        first = next((n for n, place in enumerate(_PLACES) if after.startswith(place)), 0)
        for place in _PLACES[first:]:
            start = after if after.startswith(place) else ""
            async for info in self._store.list(place, start):
                if place == layout.MANIFESTS or _digest_of(info.key) is not None:
                    yield info

    def _count(self, info: ObjectInfo, damage: Damage | None, progress: Progress) -> None:
        report = self.report
        report.last = info.key
        if info.key.startswith(layout.MANIFESTS):
            report.manifests += 1
            progress("manifests verified", report.manifests)
        else:
            report.blobs += 1
            report.blob_bytes += info.size
            progress("blobs verified", report.blobs)
        if damage is not None:
            report.damaged += 1
            report.removed += damage.removed

    async def _verify(self, info: ObjectInfo) -> Damage | None:
        digest = _digest_of(info.key)
        async with self._places:
            try:
                if digest is None:
                    return await self._verify_tag(info)
                return await self._verify_content(info, digest)
            except StoreError as error:
                try:
                    await self._store.check()
                except StoreError as failure:
                    if not failure.denied:
                        raise failure from error
                return Damage(info.key, str(digest or _OF_TAG), f"nothing ({error})", info.size)

    async def _verify_content(self, info: ObjectInfo, digest: Digest) -> Damage | None:
        """Read twice where it is wrong: one answer that is not true damages nothing."""
        try:
            found = await self._read(info.key, digest.algorithm)
        except StoreError as error:
            log.warn("could not be read at first", key=info.key, reason=error)
        else:
            if found is None:
                return None  # deleted since it was listed
            if found[1] == digest:
                return None
        found = await self._read(info.key, digest.algorithm)
        if found is None:
            return None
        seen, actual = found
        if actual == digest:
            log.warn("read wrong at first, and right the second time", key=info.key)
            return None
        damage = Damage(info.key, str(digest), str(actual), seen.size)
        if self._pins is None or info.key.startswith(layout.MANIFESTS):
            return damage

        async def has_changed() -> bool:
            return await self._store.head(info.key) != seen

        removed = await self._pins.delete(digest, has_changed)
        return Damage(info.key, str(digest), str(actual), seen.size, removed)

    async def _verify_tag(self, info: ObjectInfo) -> Damage | None:
        try:
            data = await read_proved(self._store, info)
        except Unproved as error:
            actual = "nothing" if error.data is None else str(Digest.of(error.data))
            return Damage(info.key, _OF_TAG, actual, len(error.data or b""))
        key = layout.parse_manifest(info.key)
        if data is None or key is None or key.tag is None:
            return None
        if is_md5_of(info.etag, data):
            return None
        for _ in range(2):
            if await has_copy(self._store, key.repository, data):
                return None
        return Damage(info.key, _OF_TAG, str(Digest.of(data)), len(data))

    async def _read(self, key: str, algorithm: str) -> tuple[ObjectInfo, Digest] | None:
        """The object's digest, and what was read; None: there is none."""
        async with self._store.open(key) as reader:
            if reader is None:
                if await self._store.head(key) is None:
                    return None
                raise StoreError(f"read {key}: it is listed, and cannot be read")
            hasher = Sha256() if algorithm == "sha256" else hashlib.new(algorithm)
            hashing: asyncio.Future[None] | None = None
            try:
                async for piece in _pieces(reader):
                    if hashing is not None:
                        await hashing
                    hashing = asyncio.ensure_future(asyncio.to_thread(hasher.update, piece))
            finally:
                if hashing is not None:
                    await hashing
            return reader.info, Digest(algorithm, hasher.hexdigest())


async def _pieces(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytearray]:
    """The same bytes in pieces worth a thread's turn."""
    piece = bytearray()
    async for chunk in chunks:
        piece += chunk
        if len(piece) >= PIECE:
            yield piece
            piece = bytearray()
    if piece:
        yield piece


def _digest_of(key: str) -> Digest | None:
    """The digest of an object whose key is one: of a blob, or of a manifest's copy by digest."""
    manifest = layout.parse_manifest(key)
    return layout.parse_blob(key) if manifest is None else manifest.digest
