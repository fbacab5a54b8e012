"""Which blobs belong to a repository: those that may be read through it.

Blobs are stored once for all repositories, so whoever may pull from only some of them must not
reach the rest by digest. A blob belongs to a repository if it was pushed or mounted there, which an
empty object notes (`keys.link`), or if a manifest there names it. The links are written only where
somebody's pulls are limited; in a bucket that was filled before, or by another writer, they are
made from the manifests as they are asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final

from epoch.concurrently import for_each
from epoch.digest import Digest
from epoch.errors import RegistryError
from epoch.registry import document
from epoch.registry.listing import digests_prefix, listed, tags
from epoch.store import keys
from epoch.store.base import ObjectInfo, Store
from epoch.store.readonly import unless_denied

SCANS: Final = 2
"""Repositories whose manifests are read at once: many requests may ask for what is not there."""

REMEMBERED: Final = 50_000
"""Manifests and digests in memory, up to 300 bytes each: else each blob that is pushed elsewhere
would cost reading all manifests, since clients ask for it before they push it."""


class Membership:
    """Asked about callers who may not pull everywhere. One per process, to bound its reading."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scans = asyncio.Semaphore(SCANS)
        self._known: dict[str, _Manifests] = {}

    async def add(self, repository: str, digest: Digest) -> None:
        """Note that a blob was pushed or mounted. To be called when it is stored: garbage
        collection removes a link without its blob."""
        await self._store.put(keys.link(repository, digest), b"")

    async def has(self, repository: str, digest: Digest) -> bool:
        """Whether a blob belongs to a repository. See `strangers` for the cost."""
        return not await self.strangers(repository, [digest])

    async def strangers(self, repository: str, digests: Collection[Digest]) -> set[Digest]:
        """Those of the blobs that do not belong to a repository, or are not here at all.

        One HEAD for each that is linked. For what is not, but is in the store, the manifests of
        the repository are listed, and those read that were not before, until all are found; what
        is found is linked.
        """

        async def is_unlinked(digest: Digest) -> bool:
            return await self._store.head(keys.link(repository, digest)) is None

        async def is_stored(digest: Digest) -> bool:
            return await self._store.head(keys.blob(digest)) is not None

        unlinked = await _only(digests, is_unlinked)
        wanted = await _only(unlinked, is_stored)
        if not wanted:
            return unlinked
        found = await self._named(repository, wanted)

        async def add(digest: Digest) -> None:
            with unless_denied("links of blobs to repositories"):
                await self.add(repository, digest)

        await for_each(add, found)
        return unlinked - found

    async def _named(self, repository: str, wanted: set[Digest]) -> set[Digest]:
        known = self._known.pop(repository, None) or _Manifests(self._store, repository)
        self._known[repository] = known  # the last one is the one used last
        async with known.lock, self._scans:
            found = await known.find(wanted)
        while sum(each.weight for each in self._known.values()) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return found


class _Manifests:
    """What the manifests of one repository name, as far as they have been read.

    What has URLs of its own does not count: it is not asked for when the manifest is pushed either.
    """

    def __init__(self, store: Store, repository: str) -> None:
        self._store = store
        self._repository = repository
        self.lock: Final = asyncio.Lock()
        self._read: set[int] = set()
        """Hashes of the objects. Two that are alike hide a manifest, and show nothing."""
        self._named: set[Digest] = set()

    @property
    def weight(self) -> int:
        """Objects and digests that are remembered."""
        return len(self._read) + len(self._named)

    async def find(self, wanted: set[Digest]) -> set[Digest]:
        """Those that are named. Reads what is new, until all are found."""
        await for_each(self._look, self._unread(wanted))
        return wanted & self._named

    async def _unread(self, wanted: set[Digest]) -> AsyncIterator[ObjectInfo]:
        # Digest copies first: they are all, save in buckets that lost some.
        async with listed(self._store, digests_prefix(self._repository)) as infos:
            async for info in infos:
                if wanted <= self._named:
                    return
                if _hash(info) not in self._read:
                    yield info
        async for _, info in tags(self._store, self._repository):
            if not wanted <= self._named and _hash(info) not in self._read:
                yield info

    async def _look(self, info: ObjectInfo) -> None:
        data = await self._store.get(info.key, document.MAX_STORED)
        if data is not None:
            with suppress(RegistryError):  # whatever another writer has stored there
                self._named.update(document.parse(data).blobs)
        self._read.add(_hash(info))


def _hash(info: ObjectInfo) -> int:
    return hash((info.key, info.etag, info.modified))


async def _only(
    digests: Collection[Digest], holds: Callable[[Digest], Awaitable[bool]]
) -> set[Digest]:
    answers = await for_each(holds, digests)
    return {digest for digest, answer in zip(digests, answers, strict=True) if answer}
