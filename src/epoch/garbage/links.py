"""Links of repositories to blobs that are gone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from epoch import layout
from epoch.fan_out import for_each
from epoch.garbage.batches import batches
from epoch.garbage.references import ReferencedDigests
from epoch.garbage.report import Report
from epoch.oci.digest import Digest
from epoch.progress import Progress
from epoch.store.base import Store


async def collect_links(
    store: Store,
    named: ReferencedDigests,
    report: Report,
    progress: Progress,
    *,
    min_age: float,
    dry_run: bool,
) -> None:
    """Remove them, or with `dry_run` only count them; nothing younger than `min_age` seconds.

    Costs one listing, and one HEAD for each old link whose blob no manifest names.
    """

    async def remove(found: tuple[str, Digest]) -> None:
        key, digest = found
        if await store.head(layout.blob(digest)) is not None:
            return
        report.entries += 1
        if dry_run:
            return
        await store.delete(key)
        # A push stores the blob, then the link. Where it did both between our look and our
        # deletion, the link has to come back.
        if await store.head(layout.blob(digest)) is not None:
            await store.put(key, b"")

    async for batch in batches(_old(store, named, progress, time.time() - min_age)):
        await for_each(remove, batch)


async def _old(
    store: Store, named: ReferencedDigests, progress: Progress, oldest: float
) -> AsyncIterator[tuple[str, Digest]]:
    count = 0
    async for info in store.list(layout.LINKS):
        count += 1
        progress(f"entries of {layout.LINKS}", count)
        link = layout.parse_link(info.key)
        if link is None or info.modified >= oldest:
            continue
        _, digest = link
        if digest not in named:
            yield info.key, digest
