"""The scenarios: what is pushed, to which servers, in front of which store."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bench.harness.blobs import GIB, MIB
from bench.harness.certificate import Certificate, certificate
from bench.harness.measure import Load, Subject, measure, weather
from bench.harness.process import Process
from bench.harness.seaweed import seaweed
from bench.harness.servers import SERVERS, Tuning, discard_stats, start_discard


@dataclass(frozen=True, slots=True)
class Case:
    """One load against fresh servers."""

    load: Load
    tuning: Tuning
    servers: tuple[str, ...]
    real_store: bool = False
    most_runs: int = 1000


@dataclass(slots=True)
class Result:
    """What came of a case: every server's samples, what the store saw, what else went on."""

    case: Case
    subjects: dict[str, Subject] = field(default_factory=dict)
    store: dict[str, int] = field(default_factory=dict)
    weather: list[dict[str, Any]] = field(default_factory=list)
    output: dict[str, str] = field(default_factory=dict)
    """The end of what each server printed that refused a push."""

    @property
    def base(self) -> str | None:
        """What the others are compared with: the floor, or the same server by one PUT."""
        return next((name for name in ("floor", "epoch put") if name in self.subjects), None)

    def ratio(self, name: str) -> list[float]:
        """CPU of a server over the CPU of the base in the same round, for each round."""
        assert self.base is not None
        return self.subjects[name].over(self.subjects[self.base])


@contextmanager
def _store(case: Case, tls: Certificate | None) -> Iterator[Process]:
    if case.real_store:
        with seaweed() as process:
            yield process
    else:
        with start_discard(certificate=tls) as process:
            yield process


def run(case: Case, runs: int) -> Result:
    """Start the store and the servers, measure, stop them."""
    result = Result(case)
    with ExitStack() as stack:
        tls = stack.enter_context(certificate()) if case.load.tls else None
        store = stack.enter_context(_store(case, tls))
        for name in case.servers:
            start = SERVERS[name.partition(" ")[0]]
            process = stack.enter_context(start(store.port, case.tuning, tls))
            result.subjects[name] = Subject(name, process)
        result.weather.append(weather())
        measure(list(result.subjects.values()), case.load, min(runs, case.most_runs))
        result.weather.append(weather())
        for subject in result.subjects.values():
            if any(sample.refused for sample in subject.samples):
                result.output[subject.name] = subject.process.output()[-1500:]
        if not case.real_store:
            result.store = discard_stats(store, tls)
    return result


Scenario = Callable[[Load, Tuning, tuple[str, ...]], list[Case]]


def _one(load: Load, tuning: Tuning, servers: tuple[str, ...]) -> list[Case]:
    return [Case(load, tuning, servers)]


def _sizes(load: Load, tuning: Tuning, servers: tuple[str, ...]) -> list[Case]:
    return [Case(replace(load, size=size), tuning, servers) for size in (64 * MIB, GIB, 8 * GIB)]


def _streams(load: Load, tuning: Tuning, servers: tuple[str, ...]) -> list[Case]:
    # The same amount in all, so that one more stream is all that differs.
    return [
        Case(replace(load, streams=streams, size=4 * GIB // streams), tuning, servers)
        for streams in (1, 8, 32)
    ]


def _fair(load: Load, tuning: Tuning, servers: tuple[str, ...]) -> list[Case]:
    crowd = replace(load, size=256 * MIB, streams=64, silent=40)
    tight = replace(tuning, budget=8 * tuning.part_size)
    return [Case(crowd, tight, servers, most_runs=2)]


def _patch(load: Load, tuning: Tuning, _servers: tuple[str, ...]) -> list[Case]:
    # The discarding store copies nothing, so what its move would cost is not in it.
    return [
        Case(replace(load, patch=True, chunked=chunk), tuning, ("epoch put", "epoch patch"))
        for chunk in (0, 32 * 1024, MIB)
    ]


def _store_behind(load: Load, tuning: Tuning, servers: tuple[str, ...]) -> list[Case]:
    # The floor does not sign, which a real store insists on.
    return [Case(load, tuning, tuple(s for s in servers if s != "floor"), real_store=True)]


SCENARIOS: Final[dict[str, tuple[Scenario, str]]] = {
    "one": (_one, "one push (1 GiB, or --size), --streams of them at once"),
    "sizes": (_sizes, "one push of 64 MiB, 1 GiB, 8 GiB"),
    "streams": (_streams, "4 GiB in 1, 8, 32 pushes at once"),
    "patch": (_patch, "POST, PATCH, PUT (length known; chunks of 32 KiB, of 1 MiB) beside one PUT"),
    "fair": (_fair, "64 pushes of 256 MiB with 8 part buffers, beside 40 silent clients"),
    "store": (_store_behind, "one push, with SeaweedFS behind"),
}
