"""Gates of whole pushes, by the server's CPU time, in processes of their own."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.gates.conftest import Judge
from bench.harness.blobs import MIB
from bench.harness.measure import Load, Subject, measure
from bench.harness.servers import Tuning, start_discard, start_epoch, start_floor

SIZE = 512 * MIB
ROUNDS = 17
DOUBT = 0.03
"""A median that is closer to its limit than this may be chance."""
SLOW = Path(__file__).parent / "slow"


@pytest.fixture
def subjects(
    request: pytest.FixtureRequest, slower: float, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Subject]]:
    """A reference and a path of ours, by name, each a server in front of the same store."""
    names: tuple[str, str] = request.param
    with ExitStack() as stack:
        store = stack.enter_context(start_discard())
        starts = [start_floor if names[0] == "floor" else start_epoch, start_epoch]
        servers = [stack.enter_context(starts[0](store.port, Tuning()))]
        if slower:
            path = os.pathsep.join(filter(None, [str(SLOW), os.environ.get("PYTHONPATH")]))
            monkeypatch.setenv("PYTHONPATH", path)
            monkeypatch.setenv("EPOCH_BENCH_SLOWER", str(slower))
        servers.append(stack.enter_context(starts[1](store.port, Tuning())))
        yield [Subject(name, server) for name, server in zip(names, servers, strict=True)]


def _ratio(subjects: list[Subject], load: Load, limit: float) -> float:
    """CPU of the second over that of the first, round by round; the median. Where that is close to
    the limit, on either side, more rounds have to tell."""
    for _ in range(3):
        measure(subjects, load, ROUNDS)
        assert not any(sample.refused for each in subjects for sample in each.samples)
        reference, own = subjects
        ratios = own.over(reference)
        print("rounds", " ".join(f"{ratio:.3f}" for ratio in ratios))
        if abs(statistics.median(ratios) - limit) > DOUBT:
            break
    return statistics.median(ratios)


@pytest.mark.parametrize("subjects", [("floor", "epoch put")], indirect=True)
def test_put_over_the_floor(subjects: list[Subject], judge: Judge) -> None:
    """One PUT beside the C program that does the least one can."""
    judge(_ratio(subjects, Load(size=SIZE), 1.105), 1.105)


@pytest.mark.parametrize("subjects", [("epoch put", "epoch patch")], indirect=True)
def test_patch_over_put(subjects: list[Subject], judge: Judge) -> None:
    """POST, PATCH in chunks and PUT, beside one PUT."""
    judge(_ratio(subjects, Load(size=SIZE, patch=True, chunked=32 * 1024), 1.095), 1.095)
