"""`/metrics` tells what the CPU time of real pushes went to."""

from __future__ import annotations

import random
import ssl
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.tools.authority import Authority
from tests.tools.client import digest_of
from tests.tools.fixtures import StartServer
from tests.tools.server import Server

DATA = random.Random(12).randbytes(64 << 20)


def _split(url: str, context: ssl.SSLContext | None = None) -> tuple[dict[str, float], float]:
    """CPU seconds by work, and all of the process."""
    with urllib.request.urlopen(f"{url}/metrics", context=context) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    split = {s.labels["work"]: s.value for s in samples if s.name == "epoch_cpu_seconds_total"}
    (total,) = (s.value for s in samples if s.name == "process_cpu_seconds_total")
    return split, total


def _push(url: str, context: ssl.SSLContext | None = None) -> dict[str, float]:
    """Push `DATA`; what it cost, by work."""
    before, _ = _split(url, context)
    target = f"{url}/v2/a/blobs/{digest_of(DATA)}"
    request = urllib.request.Request(target, DATA, method="PUT")
    with urllib.request.urlopen(request, context=context) as answer:
        assert answer.status == 201
    after, total = _split(url, context)
    assert sum(after.values()) == pytest.approx(total, abs=0.1)
    return {work: after[work] - before[work] for work in after}


def test_a_push_over_plain_http(server: Server) -> None:
    cost = _push(f"http://127.0.0.1:{server.port}")
    assert cost["hash"] > 0
    assert cost["receive"] > 0
    assert cost["tls"] == 0


@pytest.mark.parametrize("place", ["directory"], indirect=True)
def test_a_push_over_tls(start_server: StartServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    cert, key = authority.issue("server")
    server = start_server({"EPOCH_TLS_CERT": str(cert), "EPOCH_TLS_KEY": str(key)})
    context = ssl.create_default_context(cafile=str(authority.path))
    cost = _push(f"https://127.0.0.1:{server.port}", context)
    assert cost["hash"] > 0
    assert cost["tls"] > 0
    assert cost["receive"] == 0
