"""Small requests: rate and latency of manifests and lists of tags, beside distribution's."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.harness.image import push_image
from bench.harness.peers import distribution, start_distribution, start_distribution_on
from bench.harness.process import Process
from bench.harness.requests import CONNECTIONS, Rate, request
from bench.harness.row import Row
from bench.harness.seaweed import seaweed
from bench.harness.servers import Tuning, start_epoch, start_epoch_on

_REPOSITORY: Final = "bench/image"
_TAGS: Final = [f"v1.{n}" for n in range(50)]
_WARM: Final = 0.3
_SECONDS: Final = 0.3
"""Of each measurement; there are a hundred of them."""

Servers = dict[str, Process]
Rates = dict[str, dict[str, list[Rate]]]
"""By request and server, one for each round."""


def rows(runs: int) -> Iterator[Row]:
    """In front of SeaweedFS, which has the other core together with the load; then on a directory,
    in the page cache."""
    with ExitStack() as stack:
        store = stack.enter_context(seaweed()).port
        yield from _compare(
            "SeaweedFS",
            runs,
            _started(
                stack,
                lambda: start_epoch(store, Tuning()),
                lambda: start_distribution(store, Tuning()),
            ),
        )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-requests-")))
        yield from _compare(
            "directory",
            runs,
            _started(
                stack,
                lambda: start_epoch_on(folder / "epoch"),
                lambda: start_distribution_on(folder / "distribution"),
            ),
        )


def _started(
    stack: ExitStack, epoch: Callable[[], Process], peer: Callable[[], Process]
) -> Servers:
    if distribution() is None:
        return {}
    return {
        name: stack.enter_context(start())
        for name, start in (("epoch", epoch), ("distribution", peer))
    }


def _compare(store: str, runs: int, servers: Servers) -> Iterator[Row]:
    if not servers:
        return
    rates = _measure(servers, runs)
    for what, by_server in rates.items():
        ours, theirs = by_server["epoch"], by_server["distribution"]
        ratios = [a.per_second / b.per_second for a, b in zip(ours, theirs, strict=True)]
        yield Row(
            8,
            f"{what}, {CONNECTIONS} connections, {store}: requests a second",
            "x distribution",
            1.0,
            ratios,
            at_least=True,
            detail={"note": _note(by_server)} | {n: _figures(r) for n, r in by_server.items()},
        )
    yield Row(
        8,
        f"the slowest 1 % of those requests, {store}: worst of all kinds",
        "x distribution",
        1.0,
        [_worst_p99(rates, turn) for turn in range(runs)],
    )


def _measure(servers: Servers, runs: int) -> Rates:
    digests = {
        name: push_image(process.port, _REPOSITORY, _TAGS) for name, process in servers.items()
    }
    found: Rates = defaultdict(lambda: defaultdict(list))
    for turn in range(-1, runs):
        for method, what, path in _REQUESTS:
            for name, process in servers.items():
                target = f"/v2/{_REPOSITORY}/{path.format(digest=digests[name])}"
                rate = request(process, method, target, _WARM if turn < 0 else _SECONDS)
                if turn >= 0:
                    found[f"{method} {what}"][name].append(rate)
    return found


_REQUESTS: Final = (
    ("GET", "manifest by tag", "manifests/v1.7"),
    ("HEAD", "manifest by tag", "manifests/v1.7"),
    ("GET", "manifest by digest", "manifests/{digest}"),
    ("HEAD", "manifest by digest", "manifests/{digest}"),
    ("GET", f"list of {len(_TAGS)} tags", "tags/list"),
)


def _worst_p99(rates: Rates, turn: int) -> float:
    return max(
        each["epoch"][turn].p99_ms / each["distribution"][turn].p99_ms for each in rates.values()
    )


def _note(by_server: dict[str, list[Rate]]) -> str:
    return "; ".join(
        f"{name} {statistics.median(r.per_second for r in rates):.0f}/s, "
        f"p99 {statistics.median(r.p99_ms for r in rates):.1f} ms"
        for name, rates in by_server.items()
    )


def _figures(rates: list[Rate]) -> dict[str, float]:
    return {
        "per_second": round(statistics.median(rate.per_second for rate in rates), 1),
        "p99_ms": round(statistics.median(rate.p99_ms for rate in rates), 2),
        "cpu_ms": round(statistics.median(rate.cpu_ms for rate in rates), 4),
    }
