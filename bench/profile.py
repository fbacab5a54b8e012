"""Where the CPU of a push goes: receiving, the digest, sending, TLS, Python; and a flame graph.

    python bench/profile.py                     pushes of 1 GiB, one after another, for 8 seconds
    python bench/profile.py --streams 8         eight at once
    python bench/profile.py --tls               TLS from the client and to the bucket
    python bench/profile.py --store directory   into a directory, not a bucket

Two ways to see it, side by side: samples of the stack by perf(1), and what the server itself
counts (docs/metrics.md). Everything runs in processes of its own; the server has a core to itself.
"""

import argparse
import re
import ssl
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `bench` itself lies

from bench.harness.blobs import GIB, MIB
from bench.harness.build import BENCH
from bench.harness.certificate import Certificate, certificate
from bench.harness.flame import svg
from bench.harness.measure import GB, Load, Subject
from bench.harness.process import Process
from bench.harness.report import machine
from bench.harness.servers import Tuning, start_discard, start_epoch, start_epoch_on
from bench.harness.stacks import Samples, Work, sampled

_WORKS: Final[tuple[tuple[Work, str, str], ...]] = (
    ("receive", "kernel, receive", "receive"),
    ("hash", "hash", "hash"),
    ("send", "kernel, send", "send"),
    ("kernel", "kernel, the rest", ""),
    ("tls", "TLS", "tls"),
    ("python", "Python, the rest", "other"),
)
"""By samples, for people, and as `/metrics` calls it."""

_METRIC: Final = re.compile(r'^epoch_cpu_seconds_total\{work="(\w+)"\} (\S+)$', re.MULTILINE)


@contextmanager
def _server(store: str, tls: Certificate | None, folder: Path) -> Iterator[Process]:
    with ExitStack() as stack:
        if store == "s3":
            behind = stack.enter_context(start_discard(certificate=tls))
            yield stack.enter_context(start_epoch(behind.port, Tuning(), tls))
        else:
            yield stack.enter_context(start_epoch_on(folder))


def _counted(server: Process, tls: Certificate | None) -> dict[str, float]:
    """The server's own figures, in CPU seconds."""
    url = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}/metrics"
    trust = ssl.create_default_context(cafile=tls.path) if tls else None
    with urllib.request.urlopen(url, timeout=10, context=trust) as answer:
        return {work: float(seconds) for work, seconds in _METRIC.findall(answer.read().decode())}


def _push(subject: Subject, load: Load, folder: Path, seconds: float) -> float:
    """Push for so many seconds; returns what was pushed, in GB."""
    deadline, amount = time.monotonic() + seconds, 0.0
    while time.monotonic() < deadline:
        sample = subject.push(load)
        if sample.refused:
            raise SystemExit(f"refused: {sample.errors}")
        amount += load.size * load.streams / GB
        for blob in folder.glob("blobs/sha256/*"):
            blob.unlink()
    return amount


def _table(samples: Samples, counted: dict[str, float], cpu: float, amount: float) -> str:
    """Seconds for each GB and shares, by samples and by the server's own count."""
    seen, told = sum(samples.works.values()), sum(counted.values())
    lines = [
        f"{'':18}{'perf: s/GB':>12}{'share':>8}{'samples':>9}{'/metrics: s/GB':>18}{'share':>8}"
    ]
    for work, text, name in _WORKS:
        count = samples.works[work]
        share = count / seen if seen else 0.0
        line = f"{text:18}{share * cpu / amount:12.4f}{share:8.1%}{count:9}"
        if not seen:
            line = f"{text:18}{'-':>12}{'-':>8}{'-':>9}"
        if name:
            line += f"{counted[name] / amount:18.4f}{counted[name] / told:8.1%}"
        else:
            line += f"{'(in send)':>18}"
        lines.append(line)
    total = f"{cpu / amount:12.4f}{1:8.0%}{seen:9}" if seen else f"{'-':>12}{'-':>8}{'-':>9}"
    lines.append(f"{'all':18}{total}{told / amount:18.4f}{1:8.0%}")
    return "\n".join(lines)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Where the CPU of a push goes.")
    parser.add_argument("--size", type=int, default=GIB // MIB, metavar="MIB", help="of a blob")
    parser.add_argument("--streams", type=int, default=1, help="pushes at once")
    parser.add_argument("--patch", action="store_true", help="POST, PATCH, PUT, not one PUT")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long (default 8)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--tls", action="store_true", help="from the client, and to the bucket")
    where.add_argument("--store", choices=("s3", "directory"), default="s3")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Push, print the split, draw the flame graph."""
    options = _arguments(argv)
    load = Load(
        size=options.size * MIB, streams=options.streams, patch=options.patch, tls=options.tls
    )
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['revision']}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-profile-")))
        tls = stack.enter_context(certificate()) if options.tls else None
        server = stack.enter_context(_server(options.store, tls, folder / "store"))
        subject = Subject("epoch", server)
        _push(subject, load, folder / "store", 0.1)  # connections and buffers come into being
        before, began = _counted(server, tls), server.cpu_seconds()
        with sampled(server.pid, folder) as samples:
            amount = _push(subject, load, folder / "store", options.seconds)
        cpu, after = server.cpu_seconds() - began, _counted(server, tls)
    counted = {work: after[work] - before[work] for work in after}
    print(_table(samples, counted, cpu, amount))
    if samples.trouble:
        print(samples.trouble)
        return 0
    way = f"{'TLS, ' if tls else ''}{'PATCH, ' if options.patch else ''}{about['revision']}"
    what = f"{options.streams} x {options.size} MiB to {options.store}, {way}"
    path = BENCH / "results" / f"profile-{about['time'].replace(':', '')[:17]}.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(svg(samples.stacks, f"CPU of pushes, {what}"))
    print(f"-> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
