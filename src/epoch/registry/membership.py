"""Which blobs belong to a repository: those that may be read through it.

Blobs are stored once for all repositories, so whoever may pull from only some of them must not
reach the rest by digest. A blob belongs to a repository if it was pushed or mounted there, which a
link notes (`layout.link`), or if a manifest there names it. The links are written only where
somebody's pulls are limited; in a bucket that was filled before, or by another writer, they are
made from the manifests as they are asked for.

Whether a blob that does not belong to the repository is stored for another one makes no difference
to what is done here, so it cannot be told by the time that an answer takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from typing import Final

from epoch import layout
from epoch.errors import RegistryError
from epoch.fan_out import for_each
from epoch.oci import document
from epoch.oci.digest import Digest
from epoch.registry.listing import listed, tags
from epoch.registry.stored import StoredManifests
from epoch.store.base import ObjectInfo, Store
from epoch.store.readonly import unless_denied

SCANS: Final = 2
"""Repositories whose manifests are read at once: many requests may ask for what is not there."""

FRESH: Final = 1.0
FRESH_SHARE: Final = 10.0
"""Seconds for which a list of manifests is taken for the newest, and at least so many times as long
as reading it took: clients ask for each blob before they push it. Blobs that are pushed or mounted
meanwhile have links of their own; only manifests of writers that make no links are seen later."""

REMEMBERED: Final = 200_000
"""Manifests and digests in memory, some 80 bytes each. The repository that was asked for last is
remembered whatever its size: else each question would read all of its manifests again."""


class Membership:
    """Asked about callers who may not pull everywhere. One per process, to bound its reading."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stored = StoredManifests(store)
        self._scans = asyncio.Semaphore(SCANS)
        self._known: dict[str, _Manifests] = {}

    async def add(self, repository: str, digest: Digest) -> None:
        """Note that a blob was pushed or mounted. To be called when it is stored: garbage
        collection removes a link without its blob."""
        await self._store.put(layout.link(repository, digest), b"")

    async def has(self, repository: str, digest: Digest) -> bool:
        """Whether a blob belongs to a repository. See `not_in_repository` for the cost."""
        return not await self.not_in_repository(repository, [digest])

    async def not_in_repository(self, repository: str, digests: Collection[Digest]) -> set[Digest]:
        """Those of the blobs that do not belong to a repository. What belongs need not be stored.

        One HEAD for each. Where one is not linked, the manifests of the repository are listed, once
        in `FRESH` seconds, and those read that were not before; what they name is linked.
        """

        async def is_linked(digest: Digest) -> bool:
            return await self._store.head(layout.link(repository, digest)) is not None

        answers = await for_each(is_linked, digests)
        unlinked = {digest for digest, linked in zip(digests, answers, strict=True) if not linked}
        if not unlinked:
            return unlinked
        found = await self._named(repository, unlinked)

        async def add(digest: Digest) -> None:
            with unless_denied("links of blobs to repositories"):
                await self.add(repository, digest)

        await for_each(add, found)
        return unlinked - found

    async def _named(self, repository: str, wanted: set[Digest]) -> set[Digest]:
        known = self._known.pop(repository, None)
        if known is None:
            known = _Manifests(self._store, self._stored, repository)
        self._known[repository] = known  # the last one is the one used last
        async with known.lock, self._scans:
            await known.refresh()
        while len(self._known) > 1 and self._weight() > REMEMBERED:
            del self._known[next(iter(self._known))]
        return {digest for digest in wanted if known.names(digest)}

    def _weight(self) -> int:
        return sum(each.weight for each in self._known.values())


class _Manifests:
    """What the manifests of one repository name, as far as they have been read.

    What has URLs of its own does not count: it is not asked for when the manifest is pushed either.
    """

    def __init__(self, store: Store, stored: StoredManifests, repository: str) -> None:
        self._store = store
        self._stored = stored
        self._repository = repository
        self.lock: Final = asyncio.Lock()
        self._read: set[int] = set()
        """Hashes of the objects. Two that are alike hide a manifest, and show nothing."""
        self._named: set[bytes] = set()
        self._fresh_until = float("-inf")

    @property
    def weight(self) -> int:
        """Objects and digests that are remembered."""
        return len(self._read) + len(self._named)

    def names(self, digest: Digest) -> bool:
        """Whether a manifest that was read names a blob."""
        return _short(digest) in self._named

    async def refresh(self) -> None:
        """Read the manifests that are new, unless that was done just now."""
        began = time.monotonic()
        if began < self._fresh_until:
            return
        await for_each(self._look, self._unread())
        took = time.monotonic() - began
        self._fresh_until = began + max(FRESH, FRESH_SHARE * took)

    async def _unread(self) -> AsyncIterator[ObjectInfo]:
        async with listed(self._store, layout.manifest_copies(self._repository)) as infos:
            async for info in infos:
                if _hash(info) not in self._read:
                    yield info
        # They hold the same bytes, save in buckets that lost digest copies.
        async for _, info in tags(self._store, self._repository):
            if _hash(info) not in self._read:
                yield info

    async def _look(self, info: ObjectInfo) -> None:
        try:
            data = await self._stored.at(info.key, self._repository)
        except RegistryError:
            return  # damaged: it names nothing, and may be read right the next time
        if data is not None:
            with suppress(RegistryError):  # whatever another writer has stored there
                found = await document.read(data)
                self._named.update(map(_short, (*found.blobs, *found.untyped)))
        self._read.add(_hash(info))


def _hash(info: ObjectInfo) -> int:
    return hash((info.key, info.etag, info.modified))


def _short(digest: Digest) -> bytes:
    """Half of a sha256, a quarter of a sha512: enough that nobody finds two alike."""
    return bytes.fromhex(digest.hex[:32])
