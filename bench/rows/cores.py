"""What more cores bring: the digest in a thread of its own, and several workers."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from bench.harness.blobs import GIB, MIB, block
from bench.harness.measure import GB, Load, Subject
from bench.harness.row import Row
from bench.harness.servers import Tuning, start_discard, start_epoch
from epoch._fastio import Sha256

_MOST_RUNS: Final = 5


def rows(runs: int) -> Iterator[Row]:
    """The wall time of one stream on all cores, and of two workers beside one."""
    runs = min(runs, _MOST_RUNS)
    yield from _one_stream(runs)
    yield from _workers(runs)


def _one_stream(runs: int) -> Iterator[Row]:
    one_core, all_cores = Tuning(), Tuning(all_cores=True, hash_threads=1)
    push = Load(size=2 * GIB, sendfile=True)
    with ExitStack() as stack:
        process = stack.enter_context(start_discard())
        pinned = Subject("pinned", stack.enter_context(start_epoch(process.port, one_core)))
        free = Subject("free", stack.enter_context(start_epoch(process.port, all_cores)))
        speeds, busiest = [], []
        for subject in (pinned, free):
            subject.push(replace(push, size=256 * MIB))
        for _ in range(runs):
            speeds.append(_hash_speed())
            pinned.samples.append(pinned.push(push))
            before = free.process.thread_seconds()
            free.samples.append(free.push(push))
            after = free.process.thread_seconds()
            busiest.append(max(after[t] - before.get(t, 0) for t in after) / (push.size / GB))
    walls = [sample.wall_per_gb for sample in free.samples]
    one = pinned.median("wall_per_gb")
    yield Row(
        5,
        "wall of a PUT of 2 GiB on all cores, load and store on them too",
        "x speed of sha256",
        0.9,
        [1 / wall / speed for wall, speed in zip(walls, speeds, strict=True)],
        at_least=True,
        detail={"note": f"{free.median('wall_per_gb'):.3f} s/GB, on one core {one:.3f}"},
    )
    yield Row(
        5,
        "the same by the CPU of the busiest thread: what cores for the server alone would give",
        "x speed of sha256",
        0.9,
        [1 / seconds / speed for seconds, speed in zip(busiest, speeds, strict=True)],
        at_least=True,
    )
    yield Row(
        5,
        "CPU of the same",
        "x one core",
        1.05,
        free.over(pinned),
    )


def _workers(runs: int) -> Iterator[Row]:
    one, two = Tuning(), Tuning(workers=2, all_cores=True)
    with ExitStack() as stack:
        store = stack.enter_context(start_discard()).port
        alone = Subject("one worker", stack.enter_context(start_epoch(store, one)))
        both = Subject("two workers", stack.enter_context(start_epoch(store, two)))
        streams = Load(size=GIB, streams=2, sendfile=True)
        for subject in (alone, both):
            subject.push(replace(streams, size=128 * MIB, streams=8))
        for _ in range(runs):
            for subject, count in ((alone, 2), (both, 4)):
                subject.samples.append(subject.push(replace(streams, streams=count)))
    pairs = zip(alone.samples, both.samples, strict=True)
    yield Row(
        6,
        "throughput of 2 workers on 2 cores, load and store on them too",
        "x one worker",
        1.8,
        [a.wall_per_gb / b.wall_per_gb for a, b in pairs],
        at_least=True,
        detail={"note": f"wall s/GB: {alone.median('wall_per_gb'):.3f}, {_wall(both)}"},
    )
    yield Row(
        6,
        "the same by the CPU that each took: what cores for the server alone would give",
        "x one worker",
        1.8,
        [2 * ratio for ratio in alone.over(both)],
        at_least=True,
    )


def _wall(subject: Subject) -> str:
    return f"{subject.median('wall_per_gb'):.3f}"


def _hash_speed() -> float:
    """GB a second of one core that does nothing but hash."""
    data, digest = block(), Sha256()
    began = time.thread_time()
    for _ in range(256):
        digest.update(data)
    return 256 * len(data) / GB / (time.thread_time() - began)
