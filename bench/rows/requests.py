"""Small requests: rate and latency of manifests and lists of tags, beside other registries'."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.harness.image import push_image
from bench.harness.peers import Peer, peers
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
    if not peers():
        return
    with ExitStack() as stack:
        store = stack.enter_context(seaweed()).port
        servers = {"epoch": stack.enter_context(start_epoch(store, Tuning()))}
        for peer in peers():
            servers[peer.name] = stack.enter_context(peer.on_s3(store, Tuning()))
        yield from _compare("SeaweedFS", runs, _measure(servers, runs))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-requests-")))
        servers = {"epoch": stack.enter_context(start_epoch_on(folder / "epoch"))}
        for peer in peers():
            servers[peer.name] = stack.enter_context(peer.on_directory(folder / peer.name))
        yield from _compare("directory", runs, _measure(servers, runs))


def _compare(store: str, runs: int, rates: Rates) -> Iterator[Row]:
    """Each kind of request beside the first peer; beside the others, the worst of all kinds."""
    first, *others = peers()
    for what, by_server in rates.items():
        yield Row(
            8,
            f"{what}, {CONNECTIONS} connections, {store}: requests a second",
            f"x {first.name}",
            1.0,
            [_rate(by_server, first, turn) for turn in range(runs)],
            at_least=True,
            detail={"note": _note(by_server)} | {n: _figures(r) for n, r in by_server.items()},
        )
    for peer in others:
        yield Row(
            8,
            f"the same, {store}: worst of all kinds",
            f"x {peer.name}",
            1.0,
            [min(_rate(each, peer, turn) for each in rates.values()) for turn in range(runs)],
            at_least=True,
        )
    for peer in peers():
        yield Row(
            8,
            f"the slowest 1 % of those requests, {store}: worst of all kinds",
            f"x {peer.name}",
            1.0,
            [max(_p99(each, peer, turn) for each in rates.values()) for turn in range(runs)],
        )


def _rate(by_server: dict[str, list[Rate]], peer: Peer, turn: int) -> float:
    return by_server["epoch"][turn].per_second / by_server[peer.name][turn].per_second


def _p99(by_server: dict[str, list[Rate]], peer: Peer, turn: int) -> float:
    return by_server["epoch"][turn].p99_ms / by_server[peer.name][turn].p99_ms


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
