"""Counters of this process: plain attributes that hot code bumps, rendered for `/metrics`.

`docs/metrics.md` is the table of their names for people. No label takes what a client sends: each
has a fixed set of values.
"""

from __future__ import annotations

import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from epoch import __version__

if TYPE_CHECKING:
    from prometheus_client import Metric

PushOutcome = Literal["created", "existing", "digest_invalid", "size_invalid", "aborted", "failed"]
"""`created`: stored. `existing`: the blob was there. `digest_invalid`, `size_invalid`: refused.
`aborted`: the client went away or gave up. `failed`: our fault or the store's."""

PART_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of `epoch_part_seconds`."""

Work = Literal["receive", "tls", "hash", "send", "other"]
"""What CPU time goes to; see `Metrics.cpu`."""

_TIMED_EACH: Final = 1 << 20
"""Bytes; see `Stopwatch`."""

_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})


class Stopwatch:
    """CPU seconds of work that is done in pieces, and begun and ended within one thread.

    In each MiB one piece is timed and stands for all of it: reading the clock of a thread is a
    system call, which small pieces would feel. The clock on the wall is cheap, but would count
    what other threads do meanwhile.
    """

    __slots__ = ("_began", "_untimed", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        """So far."""
        self._began: float | None = None
        self._untimed = 0

    def begin(self) -> None:
        """A piece begins, or the one that had begun comes to nothing and another begins."""
        if self._untimed >= _TIMED_EACH:
            self._began = time.thread_time()

    def end(self, size: int) -> None:
        """The piece has ended; it was `size` bytes, more than 0."""
        self._untimed += size
        if self._began is not None:
            self.seconds += (time.thread_time() - self._began) * self._untimed / size
            self._began = None
            self._untimed = 0


class Buffers(NamedTuple):
    """The part buffers now: bytes of the budget, lent, free but kept, and uploads that wait."""

    budget: int
    lent: int
    kept: int
    waiters: int


class Metrics:
    """The counters. Bump them from the event loop's thread only."""

    def __init__(self) -> None:
        self.bytes_received = 0
        """Bytes of request bodies."""
        self.bytes_sent = 0
        """Bytes of response bodies."""
        self.requests: dict[tuple[str, str, int], int] = {}
        """By endpoint, method and status; bumped by `request`."""
        self.pushes: dict[PushOutcome, int] = {
            "created": 0,
            "existing": 0,
            "digest_invalid": 0,
            "size_invalid": 0,
            "aborted": 0,
            "failed": 0,
        }
        """Pushes of blobs that ended, by outcome."""
        self.parts = 0
        """Parts that the store has acknowledged; bumped by `part`."""
        self.part_bytes = 0
        """Their bytes."""
        self.part_seconds = 0.0
        """Their time, retries included."""
        self.part_buckets = [0] * (len(PART_SECONDS) + 1)
        """Parts by the first bound of `PART_SECONDS` that they kept to; the last: none."""
        self.part_retries = 0
        """Calls for a part that were made once more."""
        self.connections = 0
        """Open connections of clients."""
        self.multiparts = 0
        """Multipart uploads that were created and are neither completed nor aborted."""
        self.buffers: Callable[[], Buffers] | None = None
        """Set by the app, asked when rendering."""
        self.receiving = Stopwatch()
        """The kernel's work to hand over what comes of request bodies over plain HTTP."""
        self.decrypting = Stopwatch()
        """OpenSSL's, with request bodies."""
        self.hash_seconds: Callable[[], float] = float
        """CPU seconds spent hashing. Set by the app, asked when rendering."""
        self._cpu: dict[Work, float] = dict.fromkeys(get_args(Work), 0.0)  # as last told

    def request(self, endpoint: str, method: str, status: int) -> None:
        """Count one request that has ended. `endpoint`: out of a fixed set, such as `blob`."""
        key = (endpoint, method if method in _METHODS else "other", status)
        self.requests[key] = self.requests.get(key, 0) + 1

    def part(self, size: int, seconds: float) -> None:
        """Count one part of `size` bytes that took `seconds` to be acknowledged."""
        self.parts += 1
        self.part_bytes += size
        self.part_seconds += seconds
        self.part_buckets[bisect_left(PART_SECONDS, seconds)] += 1

    def cpu(self) -> dict[Work, float]:
        """Returns the total CPU seconds of this process by kind of work.

        `receive`, `tls` and `hash` are measured where they happen. uvloop sends when nobody looks,
        so `send` is what else the kernel did, and `other`, Python above all, what else was done
        outside of it. getrusage(2) splits user from system time by samples: within a second it is
        rough, and no figure is let go down.
        """
        used = resource.getrusage(resource.RUSAGE_SELF)
        receive = min(self.receiving.seconds, used.ru_stime)
        hashing = self.hash_seconds()
        now: dict[Work, float] = {
            "receive": receive,
            "tls": self.decrypting.seconds,
            "hash": hashing,
            "send": used.ru_stime - receive,
            "other": used.ru_utime - self.decrypting.seconds - hashing,
        }
        for work, seconds in now.items():
            self._cpu[work] = max(self._cpu[work], seconds)
        return self._cpu


metrics: Final = Metrics()
"""Those of this process."""


class _Collector:
    """Turns the attributes into prometheus_client's families when it is asked for them."""

    def __init__(self, source: Metrics) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """All families, each with its name, its unit and its help."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        now = self._source
        yield InfoMetricFamily("epoch_build", "This build.", {"version": __version__})
        requests = CounterMetricFamily(
            "epoch_requests", "Requests that ended.", labels=("endpoint", "method", "status")
        )
        for (endpoint, method, status), count in now.requests.items():
            requests.add_metric((endpoint, method, str(status)), count)
        yield requests
        pushes = CounterMetricFamily(
            "epoch_pushes", "Pushes of blobs that ended.", labels=("outcome",)
        )
        for outcome, count in now.pushes.items():
            pushes.add_metric((outcome,), count)
        yield pushes
        for name, help_text, total in (
            ("epoch_received_bytes", "Bytes of request bodies.", now.bytes_received),
            ("epoch_sent_bytes", "Bytes of response bodies.", now.bytes_sent),
            ("epoch_part_bytes", "Bytes of parts that the store took.", now.part_bytes),
            ("epoch_part_retries", "Calls for a part made once more.", now.part_retries),
        ):
            yield CounterMetricFamily(name, help_text, total)
        cpu = CounterMetricFamily(
            "epoch_cpu_seconds", "CPU time by what it went to.", labels=("work",)
        )
        for work, seconds in now.cpu().items():
            cpu.add_metric((work,), seconds)
        yield cpu
        yield HistogramMetricFamily(
            "epoch_part_seconds",
            "Time until the store took a part, retries included.",
            buckets=_cumulative(now.part_buckets),
            sum_value=now.part_seconds,
        )
        gauges: list[tuple[str, str, float]] = [
            ("epoch_connections", "Open connections of clients.", now.connections),
            ("epoch_multipart_uploads", "Multipart uploads in progress.", now.multiparts),
        ]
        if now.buffers is not None:
            buffers = now.buffers()
            gauges += [
                ("epoch_buffer_budget_bytes", "Most memory for part buffers.", buffers.budget),
                ("epoch_buffer_lent_bytes", "Part buffers in use.", buffers.lent),
                ("epoch_buffer_kept_bytes", "Part buffers free, kept for reuse.", buffers.kept),
                ("epoch_buffer_waiters", "Uploads that wait for a buffer.", buffers.waiters),
            ]
        for name, help_text, gauge in gauges:
            yield GaugeMetricFamily(name, help_text, gauge)


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    """Prometheus' buckets: each counts the ones before it too, the last is `+Inf`."""
    bounds = [*map(str, PART_SECONDS), "+Inf"]
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def render(source: Metrics = metrics) -> tuple[str, bytes]:
    """Content type and body of `/metrics`, with the process' own figures (`process_*`: CPU
    seconds, resident memory, open files; Linux only).

    prometheus_client is imported on the first call, so that a server never asked does not carry it.
    """
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(source))
    ProcessCollector(registry=registry)
    return CONTENT_TYPE_LATEST, generate_latest(registry)
