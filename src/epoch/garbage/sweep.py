"""Removes blobs that no manifest names while pushes go on, as `epoch.garbage.pins` agrees on it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from epoch import layout
from epoch.fan_out import both, for_each
from epoch.garbage.batches import batches
from epoch.garbage.pins import Times, announced, list_pins
from epoch.garbage.references import ReferencedDigests
from epoch.garbage.report import Report
from epoch.oci.digest import HEX_LENGTH, Digest
from epoch.progress import Progress
from epoch.store.base import ObjectInfo, Store

BATCH: Final = 1000
"""Blobs of one announcement. Before each, the manifests are listed once more."""


class BlobSweep:
    """Finds and removes them. Nothing younger than `min_age` seconds is touched."""

    def __init__(
        self, store: Store, named: ReferencedDigests, report: Report, min_age: float, times: Times
    ) -> None:
        self._store = store
        self._named = named
        self._report = report
        self._min_age = min_age
        self._times = times
        self.sweeping = False

    async def collect(
        self, progress: Progress, *, dry_run: bool, stopped: Callable[[], bool]
    ) -> None:
        """Remove them all, or with `dry_run` only count them. `stopped`: asked between batches."""
        for algorithm in HEX_LENGTH:
            found = self._unnamed(algorithm, progress)
            async for batch in batches(found, BATCH):
                if stopped():
                    return
                if dry_run:
                    await self._count(batch)
                else:
                    self.sweeping = True
                    try:
                        await self._sweep([digest for digest, _ in batch])
                    finally:
                        self.sweeping = False

    async def _unnamed(
        self, algorithm: str, progress: Progress
    ) -> AsyncIterator[tuple[Digest, ObjectInfo]]:
        async for info in self._store.list(layout.blobs(algorithm)):
            digest = layout.parse_blob(info.key)
            if digest is None:
                continue  # not a blob: whose ever it is, it is not ours to remove
            self._report.blobs += 1
            self._report.blob_bytes += info.size
            progress("blobs", self._report.blobs)
            if self._is_old(info) and digest not in self._named:
                yield digest, info

    async def _count(self, batch: list[tuple[Digest, ObjectInfo]]) -> None:
        pinned = await self._pinned()
        for digest, info in batch:
            if digest not in pinned:
                self._removed(info)

    async def _sweep(self, batch: list[Digest]) -> None:
        async with announced(self._store, batch, self._times) as until:
            pinned, _ = await both(self._pinned(), self._named.manifests.confirm())

            async def remove(digest: Digest) -> None:
                if digest in pinned or digest in self._named:
                    self._report.spared += 1
                    return
                info = await self._store.head(layout.blob(digest))
                if info is None or not self._is_old(info) or time.monotonic() > until:
                    self._report.spared += 1
                    return
                await self._store.delete(info.key)
                self._removed(info)

            await for_each(remove, batch)

    async def _pinned(self) -> set[Digest]:
        """Those pinned within the least age. Listed twice: nothing but the list speaks for a pin,
        and one that is wrong must not cost a blob."""
        oldest = time.time() - self._min_age
        return {
            digest
            for _ in range(2)
            async for _, digest, written in list_pins(self._store, self._times)
            if written > oldest
        }

    def _is_old(self, info: ObjectInfo) -> bool:
        return time.time() - info.modified > self._min_age

    def _removed(self, info: ObjectInfo) -> None:
        self._report.removed_blobs += 1
        self._report.removed_bytes += info.size
