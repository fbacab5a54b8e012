"""One garbage collection, or one verification, as a process of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import uvloop

from epoch import log
from epoch.app import make_collector
from epoch.config import Settings
from epoch.garbage.report import Report
from epoch.process import signals
from epoch.process.stores import open_store, warn_of_unread
from epoch.progress import Progress
from epoch.registry.verify import Damage, Verified, Verifier
from epoch.store.base import Store, StoreError


def collect(settings: Settings, progress: Progress, *, dry_run: bool) -> Report | None:
    """Collect garbage once; what was done, or None where SIGTERM or SIGINT ended it before."""
    log.configure(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_collect(settings, progress, dry_run))


async def _collect(settings: Settings, progress: Progress, dry_run: bool) -> Report | None:
    warn_of_unread(settings.store)
    store = open_store(settings.store)
    try:
        await store.check()
        collector = make_collector(settings, store)
        task = asyncio.create_task(collector.collect(progress, dry_run=dry_run))

        def stop() -> None:
            collector.stop()
            if not collector.sweeping:
                task.cancel()

        # A collection that is killed within a sweep leaves an announcement that holds up pushes.
        _when_told_to_end(stop)
        await asyncio.wait({task})
        return None if task.cancelled() or collector.stopped else task.result()
    finally:
        await store.close()


def verify(
    settings: Settings,
    progress: Progress,
    found: Callable[[Damage], None],
    *,
    after: str,
    parallel: int,
    remove: bool,
) -> Verified:
    """Read all blobs and manifests back; `failure` says why it did not come to its end, by a
    signal or the store. `StoreError` where that cannot be opened."""
    log.configure(settings.log_level)

    async def run() -> Verified:
        warn_of_unread(settings.store)
        store = open_store(settings.store)
        try:
            await _check_readable(store)
            verifier = Verifier(store, parallel=parallel, remove=remove)
            task = asyncio.create_task(verifier.run(after, progress, found))
            _when_told_to_end(task.cancel)
            try:
                await task
            except asyncio.CancelledError:
                verifier.report.failure = "interrupted before the end"
            except StoreError as error:
                verifier.report.failure = str(error)
            return verifier.report
        finally:
            await store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


async def _check_readable(store: Store) -> None:
    try:
        await store.check()
    except StoreError as error:
        if not error.denied:  # a read-only copy can be verified too
            raise


def _when_told_to_end(stop: Callable[[], object]) -> None:
    """Call `stop` on SIGTERM, SIGINT, and where the terminal is closed without nohup(1)."""
    add = asyncio.get_running_loop().add_signal_handler
    goes_on = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    signals.handle(add, (lambda: None) if goes_on else stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        add(number, stop)
