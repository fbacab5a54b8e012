"""Which blobs belong to a repository: those that may be read through it.

Blobs are stored once for all repositories, so whoever may pull from only some of them must not
reach the rest by digest. A blob belongs to a repository if it was pushed or mounted there, which an
empty object notes (`keys.link`), or if a manifest there names it. The links are written only where
somebody's pulls are limited; in a bucket that was filled before, or by another writer, they are
made from the manifests as they are asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Final, cast

from epoch.concurrently import for_each
from epoch.digest import Digest
from epoch.errors import RegistryError
from epoch.registry import document
from epoch.registry.listing import digests_prefix, tags
from epoch.store import keys
from epoch.store.base import ObjectInfo, Store

SCANS: Final = 2
"""Repositories whose manifests are read at once: many requests may ask for what is not there."""


class Membership:
    """Asked about callers who may not pull everywhere. One per process, to bound its reading."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scans = asyncio.Semaphore(SCANS)

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
        the repository are read until all are found; what is found is linked.
        """

        async def is_unlinked(digest: Digest) -> bool:
            return await self._store.head(keys.link(repository, digest)) is None

        async def is_stored(digest: Digest) -> bool:
            return await self._store.head(keys.blob(digest)) is not None

        unlinked = await _only(digests, is_unlinked)
        wanted = await _only(unlinked, is_stored)
        if not wanted:
            return unlinked
        async with self._scans:
            found = await self._named(repository, wanted)

        async def add(digest: Digest) -> None:
            await self.add(repository, digest)

        await for_each(add, found)
        return unlinked - found

    async def _named(self, repository: str, wanted: set[Digest]) -> set[Digest]:
        """Those that manifests of the repository name. What has URLs of its own does not count:
        it is not asked for when the manifest is pushed either."""
        found: set[Digest] = set()

        async def read(key: str) -> None:
            data = await self._store.get(key, document.MAX_STORED)
            if data is None or not any(digest.hex.encode() in data for digest in wanted):
                return
            try:
                found.update(wanted.intersection(document.parse(data).blobs))
            except RegistryError:
                return  # whatever another writer has stored there

        async def unread() -> AsyncIterator[str]:
            # Digest copies first: they are all, save in buckets that lost some.
            by_digest = self._store.list(digests_prefix(repository))
            by_tag = (info async for _, info in tags(self._store, repository))
            for infos in by_digest, by_tag:
                async with aclosing(cast(AsyncGenerator[ObjectInfo, None], infos)) as listed:
                    async for info in listed:
                        if found == wanted:
                            return
                        yield info.key

        await for_each(read, unread())
        return found


async def _only(
    digests: Collection[Digest], holds: Callable[[Digest], Awaitable[bool]]
) -> set[Digest]:
    answers = await for_each(holds, digests)
    return {digest for digest, answer in zip(digests, answers, strict=True) if answer}
