"""One garbage collection, from the first look to the last deletion.

Removed are: blobs that no manifest of any repository names, expired upload sessions, multipart
uploads that were left behind, entries of indexes whose manifest is gone, links whose blob is gone,
and the collection's own old notes. Manifests are never removed: untagged ones can be pulled by
digest, and are the user's.

It runs beside pushes, pulls and deletions, of any number of processes, and beside other
collections: `epoch.garbage.pins` says why nothing that is needed is lost. What cannot be read, or
is not proved to be what it should be (`read_proved`, `ManifestReader`), stops it, before anything
that it might name is removed. No single answer of the store, wrong as it may be, costs anything
that cannot be rebuilt: of each deletion two answers must be wrong in the same way.

Cost: one listing of `manifests/` and one GET for each object there, 16 at a time, two for a tag
where the store has no MD5; one listing of the blobs, and for each thousand that go, two more
listings of `manifests/` with GETs for what is new; for each blob that goes, one HEAD and one
DELETE. For memory, see `ReferencedDigests`.
"""

from __future__ import annotations

import time

from epoch import layout
from epoch.fan_out import for_each
from epoch.garbage.indexes import Index
from epoch.garbage.links import collect_links
from epoch.garbage.pins import TIMES, Times, list_pins
from epoch.garbage.references import ReferencedDigests
from epoch.garbage.report import Report
from epoch.garbage.sweep import BlobSweep
from epoch.garbage.uploads import collect_uploads
from epoch.progress import Progress, silent
from epoch.store.base import Store


class Collector:
    """Collects, as often as it is told to."""

    def __init__(
        self, store: Store, *, min_age: float, session_lifetime: float, times: Times = TIMES
    ) -> None:
        """`min_age`: seconds; what is younger stays. `session_lifetime`: seconds without a change
        after which an upload session is over."""
        self._store = store
        self._min_age = min_age
        self._lifetime = max(min_age, session_lifetime)
        self._times = times
        self._stopped = False
        self._blobs: BlobSweep | None = None

    async def since_last(self) -> float:
        """Seconds since any process over this store began a collection; infinite for never."""
        info = await self._store.head(layout.LAST_COLLECTION)
        return float("inf") if info is None else time.time() - info.modified

    @property
    def sweeping(self) -> bool:
        """Whether blobs are announced or being deleted right now: must not be cancelled now."""
        return self._blobs is not None and self._blobs.sweeping

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """Make a running `collect` end soon, with all it has begun in order."""
        self._stopped = True

    async def collect(self, progress: Progress | None = None, *, dry_run: bool = False) -> Report:
        """Remove what is not needed, or with `dry_run` only count it and write nothing.

        `StoreError` where the store fails; what was removed by then was not needed.
        """
        tell = progress or silent
        report = Report()
        if not dry_run:
            await self._store.put(layout.LAST_COLLECTION, b"")
        named = ReferencedDigests(self._store, tell)
        report.manifests = await named.manifests.refresh()
        await Index(self._store, named, report, self._min_age).collect(tell, dry_run=dry_run)
        if not self._stopped:
            self._blobs = BlobSweep(self._store, named, report, self._min_age, self._times)
            await self._blobs.collect(tell, dry_run=dry_run, stopped=lambda: self._stopped)
        if not self._stopped:
            await collect_links(
                self._store, named, report, tell, min_age=self._min_age, dry_run=dry_run
            )
        if not self._stopped:
            await collect_uploads(
                self._store, report, tell, lifetime=self._lifetime, dry_run=dry_run
            )
            await self._drop_notes(report, dry_run=dry_run)
        return report

    async def _drop_notes(self, report: Report, *, dry_run: bool) -> None:
        """Pins and announcements that no longer count."""
        now = time.time()
        old = [
            key
            async for key, _, written in list_pins(self._store, self._times)
            if now - written > self._min_age
        ]
        old += [
            info.key
            for prefix in (layout.SWEEPS, layout.BLOB_DELETIONS, layout.DELETIONS)
            async for info in self._store.list(prefix)
            if now - info.modified > self._min_age
        ]
        report.notes = len(old)
        if not dry_run:
            await for_each(self._store.delete, old)
