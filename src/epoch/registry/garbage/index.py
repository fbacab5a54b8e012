"""Entries of indexes whose manifest or repository is gone: a push or a deletion was cut short, or
another writer deleted what it knows nothing of.

They also speak for the manifests that they stand for: one that is there, and that the list of
manifests did not have, shows that the store's lists are wrong. So they are looked at first.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import Final

from epoch.concurrently import for_each
from epoch.names import is_name
from epoch.registry.catalog import Catalog
from epoch.registry.garbage.batches import batches
from epoch.registry.garbage.named import Named
from epoch.registry.garbage.report import Progress, Report
from epoch.registry.listing import digest_of_key, digests_prefix, has_manifests, listed
from epoch.store import keys
from epoch.store.base import Store

_ENTRY: Final = re.compile(r"referrers/(.+)/(sha(?:256|512)-[0-9a-f]+)/([^/]+\.json)")
_MARKER: Final = re.compile(r"_catalog/(.+)/_")
_SCANNED: Final = re.compile(r"referrers/(.+)/_complete")
_BATCH: Final = 1000
_MAX_ENTRY: Final = 8 * 1024 * 1024


class Index:
    """Removes them; nothing younger than `min_age` seconds is touched."""

    def __init__(self, store: Store, named: Named, report: Report, min_age: float) -> None:
        self._store = store
        self._named = named
        self._report = report
        self._min_age = min_age
        self._catalog = Catalog(store)

    async def collect(self, progress: Progress, *, dry_run: bool) -> None:
        """Remove them all, or with `dry_run` only count them. To be called when `named` is read.

        Also notes repositories that the catalog misses, since another writer pushed them.
        `StoreError` where the list of manifests was wrong.
        """
        if not dry_run:
            missed = [name for name in sorted(self._named.repositories) if is_name(name)]
            await for_each(self._catalog.add, missed)

        async def remove(key: str) -> None:
            if await self._is_needed(key):
                return
            self._report.entries += 1
            if not dry_run:
                await self._remove(key)

        for prefix in ("referrers/", "_catalog/"):
            async for batch in batches(self._old(prefix, progress), _BATCH):
                await for_each(remove, batch)

    async def _old(self, prefix: str, progress: Progress) -> AsyncIterator[str]:
        """The keys of what was written long ago, and whose manifest was not seen."""
        oldest = time.time() - self._min_age
        count = 0
        async for info in self._store.list(prefix):
            count += 1
            progress(f"entries of {prefix}", count)
            if info.modified < oldest and not self._was_seen(info.key):
                yield info.key

    def _was_seen(self, key: str) -> bool:
        if (manifest := _manifest_of(key)) is not None:
            return self._named.manifests.has_object(manifest)
        repository = _repository_of(key)
        return repository is None or repository in self._named.repositories

    async def _is_needed(self, key: str) -> bool:
        """Whether it is needed now, at a second look, which must fit the first."""
        if (manifest := _manifest_of(key)) is not None:
            await self._named.manifests.look_for([manifest])
            return self._named.manifests.has_object(manifest)
        repository = _repository_of(key)
        if repository is not None and not await has_manifests(self._store, repository):
            return False
        if repository is not None and repository not in self._named.repositories:
            async with listed(self._store, keys.manifests(repository)) as infos:
                async for info in infos:
                    await self._named.manifests.look_for([info.key])
        return True

    async def _remove(self, key: str) -> None:
        if _MARKER.fullmatch(key):
            await self._catalog.remove_if_empty(_MARKER.fullmatch(key)[1])  # type: ignore[index]
            return
        data = await self._store.get(key, _MAX_ENTRY)
        await self._store.delete(key)
        # A push writes the manifest, then this entry once more. Where that lay between our look
        # and our deletion, the entry has to come back.
        if data is not None and _manifest_of(key) and await self._is_needed(key):
            await self._store.put(key, data)


def _manifest_of(key: str) -> str | None:
    """The manifest that an entry of a referrer stands for."""
    found = _ENTRY.fullmatch(key)
    if found is None or digest_of_key(key) is None:
        return None
    return f"{digests_prefix(found[1])}{found[3]}"


def _repository_of(key: str) -> str | None:
    """The repository that a marker stands for."""
    found = _MARKER.fullmatch(key) or _SCANNED.fullmatch(key)
    return found[1] if found is not None else None
