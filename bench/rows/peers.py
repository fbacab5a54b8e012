"""Pushes beside other registries, on the same store."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from bench.harness.blobs import GIB, MIB
from bench.harness.measure import Load, Subject, measure
from bench.harness.peers import Peer, peers
from bench.harness.row import Row
from bench.harness.seaweed import seaweed
from bench.harness.servers import Tuning, start_discard, start_epoch, start_floor

_GO_PER_FLOOR: Final = 1.95
"""What the Go registry epoch with streamed parts took, over the same floor: 2.05 to 2.2 s of CPU
for each 10^9 bytes where the floor took 1.02 to 1.07. It cannot be had as a package."""
_MOST_RUNS: Final = 3


def rows(runs: int) -> Iterator[Row]:
    """Epoch by one PUT, the others by POST and PUT, each as its own clients push."""
    yield _beside_go(min(runs, _MOST_RUNS))
    for peer in peers():
        yield _beside(peer, min(runs, _MOST_RUNS))


def _beside_go(runs: int) -> Row:
    with ExitStack() as stack:
        store = stack.enter_context(start_discard()).port
        floor = Subject("floor", stack.enter_context(start_floor(store, Tuning())))
        epoch = Subject("epoch put", stack.enter_context(start_epoch(store, Tuning())))
        measure([floor, epoch], Load(size=GIB), runs)
    return Row(
        12,
        "PUT of 1 GiB beside the Go epoch",
        "x Go epoch",
        0.55,
        [ratio / _GO_PER_FLOOR for ratio in _ratios(epoch, floor)],
        detail={"note": f"which is not run, but taken for {_GO_PER_FLOOR} x floor, as published"},
    )


def _beside(peer: Peer, runs: int) -> Row:
    # The discarding store lists no uploads, without which distribution does not go on with one.
    with ExitStack() as stack:
        store = stack.enter_context(seaweed()).port
        epoch = Subject("epoch put", stack.enter_context(start_epoch(store, Tuning())))
        other = Subject(peer.name, stack.enter_context(peer.on_s3(store, Tuning())))
        measure([epoch, other], Load(size=256 * MIB, post=True), runs)
    figures = {each.name: round(each.median("cpu_per_gb"), 3) for each in (epoch, other)}
    return Row(
        12,
        f"PUT of 256 MiB beside {peer.name} {peer.version}, SeaweedFS",
        f"x {peer.name}",
        0.30,
        _ratios(epoch, other),
        detail={"note": f"CPU s/GB: {figures}"},
    )


def _ratios(one: Subject, other: Subject) -> list[float]:
    """CPU of `one` over that of `other`, round by round."""
    for subject in (one, other):
        if any(sample.refused for sample in subject.samples):
            raise RuntimeError(f"{subject.name} refused a push: {subject.process.output()[-1000:]}")
    return one.over(other)
