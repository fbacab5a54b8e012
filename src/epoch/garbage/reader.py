"""All manifests of all repositories, each read once and proved, however often they are listed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from epoch import layout
from epoch.errors import RegistryError
from epoch.fan_out import for_each, off_loop
from epoch.garbage.batches import batches
from epoch.oci import document
from epoch.oci.digest import Digest
from epoch.progress import Progress, silent
from epoch.registry.proof import read_proved
from epoch.store.base import ObjectInfo, Store, StoreError

_CLOCKS: Final = 900.0
"""Seconds that the clocks of the store and of this machine may differ, see `epoch.garbage.pins`."""


class ManifestReader:
    """Hands the key and the bytes of every object below `manifests/` to `take`, proved, once for
    each version of it.

    A list is not believed either: what an earlier list had, or what another object speaks for (the
    copy by digest of a tag, the children of an index), and is not on the list, is looked for by
    HEAD. Where it is there, and was when the list began, the store's lists are wrong, and nothing
    may be removed by them. `take` may be called in a thread. Memory: some 350 bytes for each
    object.
    """

    def __init__(
        self, store: Store, take: Callable[[str, bytes], None], progress: Progress = silent
    ) -> None:
        self._store = store
        self._take = take
        self._progress = progress
        self._seen: dict[str, int] = {}
        self._expected: set[str] = set()
        self._began = 0.0

    async def refresh(self) -> int:
        """Read what is new or has changed since the last time; the number of objects there are.

        `StoreError` where anything cannot be read or proved, or is missing on the list: then
        nothing may be removed.
        """
        self._began = time.time()
        unlisted = set(self._seen)
        count = 0

        async def read(info: ObjectInfo) -> None:
            nonlocal count
            count += 1
            self._progress("manifests", count)
            unlisted.discard(info.key)
            await self._read(info)

        async for batch in batches(self._store.list(layout.MANIFESTS)):
            await for_each(read, batch)
        await self.look_for(unlisted)
        return count

    async def confirm(self) -> None:
        """The last look before a deletion: twice, since what is new may be missing on one list
        that is wrong, and nothing else would speak for it."""
        await self.refresh()
        await self.refresh()

    def has_object(self, key: str) -> bool:
        """Whether that object was seen, and not gone at the last look."""
        return key in self._seen

    async def tags(self) -> set[tuple[str, str]]:
        """Repository and tag of all the objects that stand for one."""
        return await off_loop(100 * len(self._seen), partial(_tags_of, self._seen))

    async def look_for(self, unlisted: Iterable[str]) -> None:
        """Look for objects that the last list did not have. Those that came after it are read;
        `StoreError` where the list should have had one."""

        async def look(key: str) -> None:
            info = await self._store.head(key)
            if info is None:
                self._seen.pop(key, None)
            elif info.modified < self._began - _CLOCKS:
                raise StoreError(
                    f"list {layout.MANIFESTS}: {key} is there and not on the list: the store's "
                    "lists cannot be relied on, and nothing is removed by them; check the store",
                    retry_after=None,
                )
            else:
                await self._read(info)

        pending = set(unlisted)
        while pending or self._expected:
            pending |= {key for key in self._expected if key not in self._seen}
            self._expected.clear()
            await for_each(look, pending)
            pending.clear()

    async def _read(self, info: ObjectInfo) -> None:
        version = hash((info.etag, info.size, info.modified))
        if self._seen.get(info.key) == version:
            return
        data = await read_proved(self._store, info)
        # One that was deleted in between still counts, if it was read before.
        if data is not None:
            self._expected.update(await off_loop(len(data), partial(self._look_at, info.key, data)))
            self._seen[info.key] = version

    def _look_at(self, key: str, data: bytes) -> list[str]:
        """Hand it on; returns the objects that it speaks for."""
        self._take(key, data)
        return list(_spoken_for(key, data))


def _tags_of(objects: Iterable[str]) -> set[tuple[str, str]]:
    found = map(layout.parse_manifest, objects)
    return {(key.repository, key.tag) for key in found if key is not None and key.tag is not None}


def _spoken_for(key: str, data: bytes) -> Iterator[str]:
    """The objects that are there too, if all is well."""
    named = layout.parse_manifest(key)
    if named is None:
        return
    if named.tag is not None:
        yield layout.manifest_by_digest(named.repository, Digest.of(data))
    if b'"manifests"' in data:
        try:
            children = document.parse(data).children
        except RegistryError:
            return
        for child in children:
            yield layout.manifest_by_digest(named.repository, child)
