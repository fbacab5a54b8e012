"""Pushes over plain HTTP to the discarding store: CPU beside the floor."""

from collections.abc import Iterator
from dataclasses import replace

from bench.harness.blobs import GIB
from bench.harness.measure import Load
from bench.harness.row import Row
from bench.harness.scenarios import Case, Result, run
from bench.harness.servers import Tuning


def rows(runs: int) -> Iterator[Row]:
    """One PUT, and docker's PATCH."""
    load = Load(size=GIB)
    one = run(Case(load, Tuning(), ("floor", "epoch put")), runs)
    yield against_floor(1, "PUT of 1 GiB, one stream", 1.10, one, "epoch put")
    patch = replace(load, patch=True, chunked=32 * 1024)
    two = run(Case(patch, Tuning(), ("epoch put", "epoch patch")), runs)
    yield Row(
        3,
        "PATCH of 1 GiB in chunks of 32 KiB",
        "x PUT",
        1.15,
        two.ratio("epoch patch"),
        detail=figures(two),
    )


def against_floor(number: int, what: str, target: float, result: Result, name: str) -> Row:
    """A row of CPU per byte over that of the floor, round by round."""
    return Row(number, what, "x floor", target, result.ratio(name), detail=figures(result))


def figures(result: Result) -> dict[str, object]:
    """The medians of every server of a case."""
    return {
        name: {
            "cpu_seconds_per_gb": round(subject.median("cpu_per_gb"), 4),
            "wall_seconds_per_gb": round(subject.median("wall_per_gb"), 4),
            "last_byte_to_response": round(subject.median("last_byte_to_response"), 4),
            "peak_memory": max(sample.peak_memory for sample in subject.samples),
            "refused": sum(sample.refused for sample in subject.samples),
        }
        for name, subject in result.subjects.items()
    }
