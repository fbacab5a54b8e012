"""Sums of metrics in text form."""

import pytest

from epoch.metrics import Metrics, render
from epoch.process.totals import total

WORK = 'epoch_cpu_seconds_total{work="receive"}'


def _text(requests: int, connections: int) -> str:
    metrics = Metrics()
    for number in range(requests):
        metrics.request("blob" if number % 2 else "manifest", "GET", 200)
    metrics.connections = connections
    metrics.part(100, 0.02)
    metrics.receiving.seconds = 0.001
    return render(metrics)[1].decode()


def _values(text: str) -> dict[str, float]:
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_counters_and_gauges_add_up() -> None:
    values = _values(total([_text(3, 5), _text(2, 1)]))
    assert values['epoch_requests_total{endpoint="manifest",method="GET",status="200"}'] == 3
    assert values['epoch_requests_total{endpoint="blob",method="GET",status="200"}'] == 2
    assert values["epoch_connections"] == 6
    assert values['epoch_part_seconds_bucket{le="+Inf"}'] == 2
    assert values["epoch_part_seconds_count"] == 2
    assert values[WORK] == 0.002
    assert [value for name, value in values.items() if name.startswith("epoch_build_info")] == [1]


def test_of_those_that_are_gone_only_counters_stay() -> None:
    alive, gone = _text(1, 2), _text(3, 40)
    values = _values(total([alive], [gone]))
    assert values['epoch_requests_total{endpoint="manifest",method="GET",status="200"}'] == 3
    assert values["epoch_connections"] == 2
    own = _values(alive)
    for name in ("process_cpu_seconds_total", "process_start_time_seconds", "process_max_fds"):
        assert values[name] == own[name]
    # They can be summed up before.
    assert _values(total([alive], [total([], [gone, gone])])) == pytest.approx(
        _values(total([alive], [gone, gone]))
    )


def test_of_one_process_nothing_changes() -> None:
    text = _text(4, 1)
    assert _values(total([text])) == _values(text)
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert [line for line in total([text]).splitlines() if line.startswith("#")] == heads
