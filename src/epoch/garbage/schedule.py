"""Garbage collection by a running server, now and then."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from epoch import log
from epoch.garbage.collector import Collector
from epoch.store.base import StoreError

_JITTER: Final = 600.0
_PATIENCE: Final = 10.0
"""Seconds that a collection has to end in order when the server stops."""


class Schedule:
    """Collects when nobody has for `interval` seconds.

    All processes over the store see when the last collection began, and a random delay lets one of
    them be the first. Where two begin at once all the same, both do what is right.
    """

    def __init__(self, collector: Collector, interval: float) -> None:
        self._collector = collector
        self._interval = interval
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to wait for the first time; nothing where the interval is 0."""
        if self._interval == 0:
            return
        self._task = asyncio.create_task(self._run(), name="garbage collection")

    async def close(self) -> None:
        """End, after the sweep that may be under way."""
        if self._task is None:
            return
        self._collector.stop()
        if self._collector.sweeping:
            await asyncio.wait({self._task}, timeout=_PATIENCE)
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        jitter = min(self._interval / 10, _JITTER)
        while not self._collector.stopped:
            try:
                rest = self._interval - await self._collector.since_last()
                await asyncio.sleep(max(rest, 0) + random.uniform(0, jitter))  # noqa: S311
                if await self._collector.since_last() >= self._interval:
                    await self._collect()
            except StoreError as error:
                log.error("garbage collection failed", reason=error)
                await asyncio.sleep(jitter)
            except Exception as error:  # noqa: BLE001 - the next one may work
                log.error("garbage collection failed", error)
                await asyncio.sleep(jitter)

    async def _collect(self) -> None:
        log.info("garbage collection begins")
        report = await self._collector.collect()
        log.info(
            "garbage collected",
            manifests=report.manifests,
            blobs=report.removed_blobs,
            bytes=report.removed_bytes,
            sessions=report.sessions,
            multiparts=report.multiparts,
            entries=report.entries,
        )
