"""Gates of what every request goes through, by instructions: callgrind counts the same every time.

A path's count is held over that of a reference beside it, which is ordinary Python with nothing of
ours in it. How the two compare depends on the interpreter, so the limits are those of one version.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from bench.gates.conftest import Judge
from bench.gates.counted import CALLS, IDLE, PATHS

COUNTED: Final = {
    # Built from source, -O3.
    "3.11.7": {"head": 2.22, "sign": 2.38, "render": 0.396, "dispatch": 0.958, "part": 1.345},
    # Debian 12's.
    "3.11.2": {"head": 2.42, "sign": 2.67, "render": 0.431, "dispatch": 1.032, "part": 1.326},
}
"""By interpreter, as counted: the same to two digits every time."""

LIMITS: Final = {
    path: 1.05 * count for path, count in COUNTED.get(platform.python_version(), {}).items()
}

pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind (apt install it)"),
    pytest.mark.skipif(not LIMITS, reason=f"counts are known for {', '.join(COUNTED)} alone"),
]

_TOTALS: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def _count(folder: Path, extras: dict[str, int]) -> dict[str, float]:
    """Instructions of one call of every path."""
    folder.mkdir()
    script = Path(__file__).with_name("counted.py")
    subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--dump-before=getppid"),
            *(f"--callgrind-out-file={folder / 'out'}", sys.executable, script),
            *(f"{name}={count}" for name, count in extras.items()),
        ],
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        capture_output=True,
    )
    # Every second one is what lies between two paths; the file without a number is the end.
    written = [(folder / f"out.{2 * number}").read_text() for number in range(1, len(PATHS) + 1)]
    totals = [_TOTALS.search(text) for text in written]
    return {name: int(total[1]) / CALLS for name, total in zip(PATHS, totals, strict=True) if total}


@pytest.fixture(scope="module")
def counts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float]:
    """Of every path; with `--slower`, of paths each of which idles for that much of its own."""
    slower = float(request.config.getoption("--slower")) / 100
    folder = tmp_path_factory.mktemp("callgrind")
    found = _count(folder / "plain", {})
    if slower:
        one = found["idle"] / IDLE
        extras = {name: round(found[name] * slower / one) for name in LIMITS}
        found = _count(folder / "slower", extras)
    return found


@pytest.mark.parametrize("path", LIMITS)
def test_path(counts: dict[str, float], path: str, judge: Judge) -> None:
    """One call of a path over one of the reference."""
    judge(counts[path] / counts["reference"], LIMITS[path])
