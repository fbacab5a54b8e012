"""The table for people and the JSON for later comparison."""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from bench.harness.blobs import GIB, MIB
from bench.harness.build import BENCH
from bench.harness.measure import Subject
from bench.harness.scenarios import Result

_PACKAGES: Final = ("aiobotocore", "aiohttp", "botocore", "cython", "httptools", "uvloop")
_HEADINGS: Final = (
    *("size", "pushes", "server", "CPU s/GB", "(min-max)", "x base", "wall s/GB"),
    *("last byte->201", "peak MiB", "slow/fast", "201"),
)


def machine() -> dict[str, Any]:
    """What the figures were taken on and with."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    revision = subprocess.run(
        ["git", "-C", BENCH, "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision.stdout.strip(),
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "huge_pages": huge.read_text().strip() if huge.exists() else "",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _size(count: int) -> str:
    return f"{count / GIB:g} GiB" if count >= GIB else f"{count / MIB:g} MiB"


def _row(result: Result, subject: Subject) -> list[str]:
    load, samples = result.case.load, subject.samples
    cpu = [sample.cpu_per_gb for sample in samples]
    ratio = "-"
    if result.base not in (None, subject.name):
        ratio = f"{statistics.median(result.ratio(subject.name)):.2f}"
    good = sum(load.streams - sample.refused for sample in samples)
    return [
        _size(load.size),
        f"{load.streams}" + (f" + {load.silent} silent" if load.silent else ""),
        subject.name,
        f"{statistics.median(cpu):.3f}",
        f"({min(cpu):.3f}-{max(cpu):.3f})",
        ratio,
        f"{subject.median('wall_per_gb'):.3f}",
        f"{subject.median('last_byte_to_response') * 1000:.1f} ms",
        f"{max(sample.peak_memory for sample in samples) / MIB:.1f}",
        f"{max(sample.slowest / sample.fastest for sample in samples):.2f}",
        f"{good}/{load.streams * len(samples)}",
    ]


def table(results: Sequence[Result]) -> str:
    """One line for each server of each case."""
    rows = [list(_HEADINGS)]
    rows += [_row(result, each) for result in results for each in result.subjects.values()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    for result in results:
        for name, subject in result.subjects.items():
            errors = {error for sample in subject.samples for error in sample.errors}
            lines += [f"{name} refused: {error}" for error in sorted(errors)]
        lines += [f"{name}, last lines:\n{text}" for name, text in result.output.items()]
    return "\n".join(lines)


def write(scenario: str, results: Sequence[Result]) -> Path:
    """Write everything that was measured to `bench/results/`; returns where."""
    about = machine()
    cases = [
        {
            "load": asdict(result.case.load),
            "tuning": asdict(result.case.tuning),
            "real_store": result.case.real_store,
            "store": result.store,
            "weather": result.weather,
            "servers": {
                name: {
                    "idle_memory": subject.idle_memory,
                    "samples": [asdict(sample) for sample in subject.samples],
                }
                for name, subject in result.subjects.items()
            },
        }
        for result in results
    ]
    folder = BENCH / "results"
    folder.mkdir(exist_ok=True)
    name = f"push-{scenario}-{about['time'].replace(':', '')[:17]}.json"
    path = Path(folder, name)
    path.write_text(json.dumps({"scenario": scenario, "machine": about, "cases": cases}, indent=1))
    return path
