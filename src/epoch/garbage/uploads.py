"""Uploads that nobody goes on with: expired sessions, and multipart uploads that were left behind.

A session is all objects below `_uploads/<id>/`. It is over when the newest of them is old: whoever
still sends to it writes there, every few minutes if need be. Nothing can rebuild one, so each is
listed by itself once more before anything of it goes: a list that was cut short must not end it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from epoch import layout
from epoch.fan_out import for_each
from epoch.garbage.batches import batches
from epoch.garbage.report import Report
from epoch.progress import Progress
from epoch.store.base import Multipart, Store, StoreError


async def collect_uploads(
    store: Store, report: Report, progress: Progress, *, lifetime: float, dry_run: bool
) -> None:
    """Remove sessions without a change for `lifetime` seconds, and abort multipart uploads that
    began so long ago and belong to no session: a single push must not take longer than that.

    One that cannot be aborted holds up no other; its error is raised at the end.
    """
    oldest = time.time() - lifetime
    alive: set[str] = set()
    async for session, newest in _sessions(store):
        progress("upload sessions", report.sessions + len(alive))
        objects = {} if newest > oldest else await _objects(store, session)
        if max(objects.values(), default=newest) > oldest:
            alive.add(session)
            continue
        report.sessions += 1
        if not dry_run:
            await for_each(store.delete, objects)

    failures: list[StoreError] = []

    async def abort(upload: Multipart) -> None:
        session = layout.parse_upload(upload.key)
        objects = {} if session is None else await _objects(store, session)
        if max(objects.values(), default=0.0) > oldest:
            return
        try:
            if not dry_run:
                await store.abort_multipart(upload)
        except StoreError as error:
            failures.append(error)
        else:
            report.multiparts += 1

    for prefix in (layout.BLOBS, layout.UPLOADS):
        found = _left_behind(store, prefix, oldest, alive)
        async for batch in batches(found):
            await for_each(abort, batch)
    if failures:
        raise failures[0]


async def _sessions(store: Store) -> AsyncIterator[tuple[str, float]]:
    """Each session: its id, and when the newest of its objects was written."""
    session, newest = "", 0.0
    async for info in store.list(layout.UPLOADS):
        found = layout.parse_upload(info.key)
        if found is None:
            continue
        if found != session:
            if session:
                yield session, newest
            session, newest = found, 0.0
        newest = max(newest, info.modified)
    if session:
        yield session, newest


async def _objects(store: Store, session: str) -> dict[str, float]:
    """The objects of one session, and when each was written."""
    return {info.key: info.modified async for info in store.list(layout.upload(session))}


async def _left_behind(
    store: Store, prefix: str, oldest: float, alive: set[str]
) -> AsyncIterator[Multipart]:
    async for upload, began in store.list_multiparts(prefix):
        if began < oldest and layout.parse_upload(upload.key) not in alive:
            yield upload
