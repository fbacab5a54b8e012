"""Entries of indexes whose manifest or repository is gone: a push or a deletion was cut short, or
another writer deleted what it knows nothing of.

They also speak for the manifests that they stand for: one that is there, and that the list of
manifests did not have, shows that the store's lists are wrong. So they are looked at first.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Final

from epoch import layout
from epoch.fan_out import for_each
from epoch.garbage.batches import batches
from epoch.garbage.references import ReferencedDigests
from epoch.garbage.report import Report
from epoch.oci.names import is_name
from epoch.progress import Progress
from epoch.registry.catalog import Catalog
from epoch.registry.dashboard import Dashboard
from epoch.registry.deletions import Deletions
from epoch.registry.listing import has_manifests, listed
from epoch.registry.referrers import Referrers
from epoch.store.base import Store

_MAX_ENTRY: Final = 8 * 1024 * 1024


class Index:
    """Removes them; nothing younger than `min_age` seconds is touched."""

    def __init__(
        self, store: Store, named: ReferencedDigests, report: Report, min_age: float
    ) -> None:
        self._store = store
        self._named = named
        self._report = report
        self._min_age = min_age
        self._catalog = Catalog(store)
        self._referrers = Referrers(store)
        self._deletions = Deletions(store, self._catalog)

    async def collect(self, progress: Progress, *, dry_run: bool) -> None:
        """Remove them all, or with `dry_run` only count them. To be called when `named` is read.

        Also adds what the indexes miss, since another writer pushed it, or a push has died: the
        markers of repositories, the entries of referrers, and tags in `catalog.json`. `StoreError`
        where the list of manifests was wrong.
        """
        if not dry_run:
            missed = [name for name in sorted(self._named.repositories) if is_name(name)]
            await for_each(self._catalog.mark, missed)

        async def remove(key: str) -> None:
            if await self._is_needed(key):
                return
            self._report.entries += 1
            if not dry_run:
                await self._remove(key)

        for prefix in (layout.REFERRERS, layout.CATALOG):
            async for batch in batches(self._old(prefix, progress)):
                await for_each(remove, batch)
        tags = await self._named.manifests.tags()
        _, gone = await Dashboard(self._store).reconcile(tags, dry_run=dry_run)
        self._report.entries += gone
        if not dry_run:
            await for_each(self._index_missed, list(self._named.referrers.values()))

    async def _index_missed(self, manifest: str) -> None:
        key = layout.parse_manifest(manifest)
        if key is not None and key.digest is not None:
            await self._referrers.index(key.repository, key.digest)

    async def _old(self, prefix: str, progress: Progress) -> AsyncIterator[str]:
        """The keys of what was written long ago, and whose manifest was not seen."""
        oldest = time.time() - self._min_age
        count = 0
        async for info in self._store.list(prefix):
            count += 1
            progress(f"entries of {prefix}", count)
            self._named.referrers.pop(info.key, None)  # it is not missed
            if (
                info.modified < oldest
                and _repository_of(key := info.key)
                and not self._was_seen(key)
            ):
                yield key

    def _was_seen(self, key: str) -> bool:
        if (manifest := _manifest_of(key)) is not None:
            return self._named.manifests.has_object(manifest)
        return _repository_of(key) in self._named.repositories

    async def _is_needed(self, key: str) -> bool:
        """Whether it is needed now, at a second look, which must fit the first."""
        if (manifest := _manifest_of(key)) is not None:
            await self._named.manifests.look_for([manifest])
            return self._named.manifests.has_object(manifest)
        repository = _repository_of(key)
        if not await has_manifests(self._store, repository):
            return False
        if repository not in self._named.repositories:
            async with listed(self._store, layout.manifests(repository)) as infos:
                async for info in infos:
                    await self._named.manifests.look_for([info.key])
        return True

    async def _remove(self, key: str) -> None:
        repository = _repository_of(key)
        async with self._deletions.announced(repository):
            # A marker goes, if it still should, when this deletion ends.
            if layout.parse_catalog_marker(key) or await self._is_needed(key):
                return
            data = await self._store.get(key, _MAX_ENTRY)
            await self._store.delete(key)
            # A push that died between our two looks does not write its entry again.
            if data is not None and _manifest_of(key) and await self._is_needed(key):
                await self._store.put(key, data)


def _manifest_of(key: str) -> str | None:
    """The manifest that an entry of a referrer stands for."""
    entry = layout.parse_referrer(key)
    return None if entry is None else layout.manifest_by_digest(entry.repository, entry.referrer)


def _repository_of(key: str) -> str:
    """The repository that an entry, or a marker, belongs to; "" for any other key."""
    entry = layout.parse_referrer(key)
    if entry is not None:
        return entry.repository
    return layout.parse_catalog_marker(key) or layout.parse_referrers_complete(key) or ""
