"""Whether a push costs the same however large it is, and however many run at once."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

from bench.harness.blobs import GIB, MIB
from bench.harness.measure import Load, Subject
from bench.harness.row import Row
from bench.harness.servers import Tuning, start_discard, start_epoch, start_floor

_SIZES: Final = (64 * MIB, GIB, 4 * GIB, 32 * GIB)
_STREAMS: Final = (1, 4, 16, 64)
_EACH: Final = 128 * MIB
"""Bytes of a blob where many are pushed at once."""

_AMOUNT: Final = 4 * GIB
"""That many bytes are pushed for each figure, in one blob or in many."""


def rows(runs: int) -> Iterator[Row]:
    """Each size and each number of streams, as often as the amount needs."""
    runs = min(runs, 2)
    with ExitStack() as stack:
        store = stack.enter_context(start_discard()).port
        floor = Subject("floor", stack.enter_context(start_floor(store, Tuning())))
        epoch = Subject("epoch put", stack.enter_context(start_epoch(store, Tuning())))
        for subject in (floor, epoch):
            subject.push(Load(size=256 * MIB))
        sizes = {size: _of_size(floor, epoch, size, runs) for size in _SIZES}
        crowds = {count: _of_streams(floor, epoch, count, runs) for count in _STREAMS}
    detail = {"sizes": sizes, "streams": crowds}
    small, large = sizes[_SIZES[0]], sizes[_SIZES[-1]]
    yield Row(
        11,
        "CPU of 32 GiB beside 64 MiB, both over the floor",
        "x",
        1.05,
        [large["epoch"] / large["floor"] / (small["epoch"] / small["floor"])],
        detail=detail,
    )
    yield Row(
        11,
        "peak memory of 32 GiB beside 1 GiB",
        "x",
        1.05,
        [large["resident"] / sizes[GIB]["resident"]],
    )
    yield Row(
        11,
        "CPU of 64 streams beside one",
        "x",
        1.05,
        [crowds[64]["epoch"] / crowds[1]["epoch"]],
    )
    yield Row(
        11,
        "peak memory of 64 streams above idle, part buffers of 256 MiB",
        "MiB",
        256 * 1.05,
        [crowds[64]["above_idle"] / MIB],
    )


def _of_size(floor: Subject, epoch: Subject, size: int, runs: int) -> dict[str, Any]:
    """Medians of pushes of one size, one after the other."""
    pushes = max(1, min(8, _AMOUNT // size)) * (1 if size > GIB else runs)
    return _measure(floor, epoch, Load(size=size), 1 if size > _AMOUNT else pushes)


def _of_streams(floor: Subject, epoch: Subject, count: int, runs: int) -> dict[str, Any]:
    # Blobs of one size, so that what each costs beside its bytes is the same.
    load = Load(size=_EACH, streams=count)
    return _measure(floor, epoch, load, runs * max(1, _STREAMS[-1] // count // 4))


def _measure(floor: Subject, epoch: Subject, load: Load, times: int) -> dict[str, Any]:
    floor.samples, epoch.samples = [], []
    for _ in range(times):
        for subject in (floor, epoch):
            subject.samples.append(subject.push(load))
    above = max(sample.peak_memory for sample in epoch.samples)
    return {
        "epoch": round(epoch.median("cpu_per_gb"), 4),
        "floor": round(floor.median("cpu_per_gb"), 4),
        "resident": above + epoch.idle_memory,
        "above_idle": above,
    }
