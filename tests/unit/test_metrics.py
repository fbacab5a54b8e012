"""The metrics: what is counted is what is rendered, and each is in the table for people."""

import re
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from epoch import __version__
from epoch.metrics import PART_SECONDS, Buffers, Metrics, Stopwatch, render

TABLE = Path(__file__).parents[2] / "docs" / "metrics.md"


def samples(source: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What `render` writes, read back by prometheus_client's own parser."""
    content_type, body = render(source)
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def full() -> Metrics:
    """Metrics in which every family has a sample."""
    source = Metrics()
    source.bytes_received += 5
    source.bytes_sent += 7
    source.request("BLOB", "PUT", 201)
    source.request("BLOB", "PUT", 201)
    source.request("BLOB", "BREW\n", 405)
    source.pushes["digest_invalid"] += 1
    source.part(100, PART_SECONDS[0])
    source.part(200, 0.2)
    source.part(300, 1000.0)
    source.part_retries += 2
    source.connections += 3
    source.multiparts += 4
    source.receiving.seconds, source.decrypting.seconds = 0.001, 0.002
    source.hash_seconds = lambda: 0.003
    source.buffers = lambda: Buffers(budget=40, lent=30, kept=20, waiters=10)
    return source


def test_what_is_counted_is_rendered() -> None:
    got = samples(full())
    expected = {
        ("epoch_build_info", (("version", __version__),)): 1,
        ("epoch_received_bytes_total", ()): 5,
        ("epoch_sent_bytes_total", ()): 7,
        (
            "epoch_requests_total",
            (("endpoint", "BLOB"), ("method", "PUT"), ("status", "201")),
        ): 2,
        (
            "epoch_requests_total",
            (("endpoint", "BLOB"), ("method", "other"), ("status", "405")),
        ): 1,
        ("epoch_pushes_total", (("outcome", "created"),)): 0,
        ("epoch_pushes_total", (("outcome", "digest_invalid"),)): 1,
        ("epoch_part_bytes_total", ()): 600,
        ("epoch_part_retries_total", ()): 2,
        ("epoch_part_seconds_count", ()): 3,
        ("epoch_part_seconds_sum", ()): PART_SECONDS[0] + 0.2 + 1000.0,
        ("epoch_part_seconds_bucket", (("le", "0.01"),)): 1,
        ("epoch_part_seconds_bucket", (("le", "0.1"),)): 1,
        ("epoch_part_seconds_bucket", (("le", "0.25"),)): 2,
        ("epoch_part_seconds_bucket", (("le", "60.0"),)): 2,
        ("epoch_part_seconds_bucket", (("le", "+Inf"),)): 3,
        ("epoch_connections", ()): 3,
        ("epoch_multipart_uploads", ()): 4,
        ("epoch_buffer_budget_bytes", ()): 40,
        ("epoch_buffer_lent_bytes", ()): 30,
        ("epoch_buffer_kept_bytes", ()): 20,
        ("epoch_buffer_waiters", ()): 10,
        ("epoch_cpu_seconds_total", (("work", "receive"),)): 0.001,
        ("epoch_cpu_seconds_total", (("work", "tls"),)): 0.002,
        ("epoch_cpu_seconds_total", (("work", "hash"),)): 0.003,
    }
    assert {key: got[key] for key in expected} == expected


def test_fresh_metrics_render() -> None:
    got = samples(Metrics())
    assert got["epoch_part_seconds_count", ()] == 0
    assert ("epoch_buffer_lent_bytes", ()) not in got


def test_cpu_seconds_are_all_of_them_and_go_nowhere_but_up() -> None:
    source = Metrics()
    source.receiving.seconds, source.decrypting.seconds = 1e-9, 2e-9
    source.hash_seconds = lambda: 3e-9
    before = resource.getrusage(resource.RUSAGE_SELF)
    got = dict(source.cpu())
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (got["receive"], got["tls"], got["hash"]) == (1e-9, 2e-9, 3e-9)
    total = sum(got.values())
    assert before.ru_utime + before.ru_stime <= total + 1e-6
    assert total <= after.ru_utime + after.ru_stime + 1e-6
    # What had been sending turns out to have been receiving, and to have been hashing: all of it.
    source.receiving.seconds = source.decrypting.seconds = 1e9
    later = source.cpu()
    assert all(later[work] >= seconds for work, seconds in got.items())
    assert later["receive"] <= resource.getrusage(resource.RUSAGE_SELF).ru_stime


def _spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_one_piece_in_each_mib_stands_for_all() -> None:
    watch, mib = Stopwatch(), 1 << 20
    for size in (mib // 2, mib // 2):  # not timed, but stood for by the next one
        watch.begin()
        watch.end(size)
    assert watch.seconds == 0
    watch.begin()
    watch.begin()  # the first came to nothing
    _spin(0.01)
    watch.end(mib // 4)
    assert 0.05 <= watch.seconds < 0.06
    counted = watch.seconds
    watch.begin()
    _spin(0.01)
    watch.end(mib)
    assert watch.seconds == counted


def test_what_others_do_meanwhile_is_not_counted() -> None:
    watch = Stopwatch()
    watch.end(1 << 20)
    watch.begin()
    other = threading.Thread(target=_spin, args=(0.05,))
    other.start()
    other.join()
    watch.end(1 << 20)
    assert 0 < watch.seconds < 0.025


def test_the_table_for_people_is_complete_and_true() -> None:
    _, body = render(full())
    rendered = {
        name
        for name in re.findall(r"^# TYPE (\S+) ", body.decode(), re.MULTILINE)
        if name.startswith("epoch_")
    }
    told = set(re.findall(r"^\| `(epoch_[a-z_]+)`", TABLE.read_text(), re.MULTILINE))
    assert rendered == told


def test_counting_does_not_import_prometheus_client() -> None:
    code = "import sys, epoch.metrics; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
