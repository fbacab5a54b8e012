"""A start: from exec to the line that says ready, and what is resident then."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.harness.process import Process
from bench.harness.row import Row
from bench.harness.servers import Tuning, start_discard, start_epoch, start_epoch_on


def rows(runs: int) -> Iterator[Row]:
    """In front of a bucket, then on a directory."""
    with start_discard() as store:
        yield from _measure("S3", 75.0, runs, lambda: start_epoch(store.port, Tuning()))
    with TemporaryDirectory(prefix="bench-start-") as folder:
        yield from _measure("directory", 45.0, runs, lambda: start_epoch_on(Path(folder)))


def _measure(store: str, memory: float, runs: int, start: Callable[[], Process]) -> Iterator[Row]:
    seconds, resident = [], []
    for turn in range(runs + 1):
        began = time.monotonic()
        with start() as process:
            took = time.monotonic() - began
            if turn:  # the first one reads everything from the disk
                seconds.append(took)
                resident.append(process.memory() / 1e6)
    yield Row(10, f"start until ready, {store}", "s", 0.5, seconds)
    yield Row(10, f"resident when ready, {store}", "MB", memory, resident)
