"""What the gates share: two things measured in turn, a limit for their ratio, and the proof.

Every gate holds the ratio of a path of ours to a reference that runs beside it, so that what the
machine is, and what else it does, weighs on both. With `--slower PERCENT` each path is made slower
on purpose, and a test fails where its gate would not have noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import repeat
from typing import Any, Final

import pytest

_clock: Final = time.thread_time
"""CPU time: while others have the core it stands still."""

_ROUND_SECONDS: Final = 0.002
"""How long a round is to take at least: far above what reading the clock costs, and short enough
to be seldom interrupted."""

_ROUNDS: Final = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        *("--slower",),
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="make every path slower by that much, and fail where its gate does not see it",
    )


@pytest.fixture
def slower(request: pytest.FixtureRequest) -> float:
    """By what share of its own time the path is to be made slower."""
    return float(request.config.getoption("--slower")) / 100


Judge = Callable[[float, float], None]


@pytest.fixture
def judge(slower: float) -> Judge:
    """Fails where a ratio is above its limit; with `--slower`, where it is not."""

    def check(ratio: float, limit: float) -> None:
        print(f"ratio {ratio:.4f}, limit {limit:.3f}")
        if slower:
            assert ratio > limit, f"{slower:.0%} slower, and the gate lets it pass"
        else:
            assert ratio <= limit

    return check


def _calls(function: Callable[[], object]) -> int:
    """How often a function is to be called for one round."""
    function()
    began = _clock()
    function()
    return 1 + int(_ROUND_SECONDS / (_clock() - began))


def _run(function: Callable[[], object], calls: int, slower: float = 0.0) -> float:
    """Seconds of so many calls."""
    began = _clock()
    for _ in repeat(None, calls):
        function()
    ended = _clock()
    enough = ended + (ended - began) * slower
    while _clock() < enough:
        pass
    return _clock() - began


Gate = Callable[..., None]


@pytest.fixture
def gate(benchmark: Any, slower: float, judge: Judge) -> Gate:
    """Holds the least time of `path` over that of `reference`, which runs right before it, round by
    round. Of CPU time the least is the same on a quiet machine and on a busy one."""

    def hold(
        path: Callable[[], object],
        reference: Callable[[], object],
        limit: float,
    ) -> None:
        calls, times = _calls(reference), []

        def before() -> None:
            times.append(_run(reference, calls))

        _run(path, calls)
        benchmark.pedantic(_run, (path, calls, slower), setup=before, rounds=_ROUNDS)
        judge(benchmark.stats.stats.min / min(times), limit)

    return hold
