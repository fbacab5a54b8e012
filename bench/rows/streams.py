"""Many pushes at once: what hashing them side by side saves, beside a C relay that does so too."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from bench.harness.blobs import GIB, KIB, MIB
from bench.harness.measure import Load, Subject, measure
from bench.harness.row import Row
from bench.harness.servers import Tuning, start_discard, start_epoch, start_floor

_STREAMS: Final = 16
_CROWDS: Final = (7, 16, 64)
"""Of streams that are hashed side by side, from the least on; 64 share 16 part buffers."""
_SLICE: Final = 512 * KIB
_MOST_RUNS: Final = 5


def rows(runs: int) -> Iterator[Row]:
    """16 pushes in one process: beside the floor with one stream, beside the relay with 16."""
    tuning = Tuning()
    crowd = Load(size=256 * MIB, streams=_STREAMS)
    with ExitStack() as stack:
        store = stack.enter_context(start_discard()).port
        side_by_side = replace(tuning, lockstep=True, receive_size=_SLICE)
        floor = Subject("floor", stack.enter_context(start_floor(store, tuning)))
        relay = Subject("relay", stack.enter_context(start_floor(store, side_by_side)))
        epoch = Subject("epoch", stack.enter_context(start_epoch(store, tuning)))
        for subject in (floor, relay, epoch):
            subject.push(replace(crowd, size=64 * MIB))
        for _ in range(min(runs, _MOST_RUNS)):
            floor.samples.append(floor.push(Load(size=2 * GIB)))
            relay.samples.append(relay.push(crowd))
            epoch.samples.append(epoch.push(crowd))
    figures = {each.name: round(each.median("cpu_per_gb"), 3) for each in (floor, relay, epoch)}
    detail = {"note": f"CPU s/GB: {figures}"}
    yield Row(2, "PUT, 16 streams", "x floor", 0.85, epoch.over(floor), detail=detail)
    yield Row(
        2,
        "the same beside 16 streams in lockstep in C",
        "x C relay",
        1.10,
        epoch.over(relay),
        detail=detail,
    )
    for streams in _CROWDS:
        yield _beside_one_by_one(streams, runs)


def _beside_one_by_one(streams: int, runs: int) -> Row:
    tuning, load = Tuning(), Load(size=1024 * MIB // streams, streams=streams)
    with ExitStack() as stack:
        store = stack.enter_context(start_discard()).port
        together = Subject("epoch", stack.enter_context(start_epoch(store, tuning)))
        alone = Subject(
            "one by one", stack.enter_context(start_epoch(store, replace(tuning, one_by_one=True)))
        )
        measure([together, alone], load, 2 * runs)
    return Row(
        2,
        f"{streams} streams beside the same server with one digest after the other",
        "x one by one",
        1.0,
        together.over(alone),
    )
