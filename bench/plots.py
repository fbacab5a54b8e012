"""The pictures of docs/plots, drawn anew from what bench/table.py has measured.

    python bench/plots.py bench/results/table-*.json

Of the tables that are named, the newest is taken that has what CPU a push takes by the size of the
blob and by the number of pushes at once (the rows of target 11).
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `bench` itself lies

from bench.harness.build import BENCH
from bench.harness.plot import plot

FOLDER: Final = BENCH.parent / "docs/plots"
TARGET: Final = 11
"""The number of the rows whose `detail` is drawn."""

_SERIES: Final = {"Epoch": "epoch", "Floor": "floor"}
"""The names in the legend, and their keys in a row's detail: CPU seconds per 10^9 bytes."""

_CPU: Final = "CPU seconds per GB (10⁹ bytes)"


def binary(size: float) -> str:
    """A number of bytes in the largest unit in which it is at least 1: `64 MiB`, `1 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:g} {unit}"
        size /= 1024
    return f"{size:g} TiB"


def newest(paths: Iterable[Path]) -> tuple[Path, dict[str, Any]]:
    """The newest table (by its name, which ends in the time) with sizes and streams, and these.

    ValueError where none has both.
    """
    for path in sorted(paths, key=lambda each: each.name, reverse=True):
        detail: dict[str, Any] = {}
        for row in json.loads(path.read_text())["rows"]:
            if row["number"] == TARGET:
                detail |= row["detail"]
        if detail.keys() >= {"sizes", "streams"}:
            return path, detail
    raise ValueError(f"no table has rows of target {TARGET} with sizes and streams")


def _series(measured: Mapping[str, Mapping[str, float]]) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(float(at), figures[key]) for at, figures in measured.items()]
        for name, key in _SERIES.items()
    }


def pictures(detail: Mapping[str, Any]) -> dict[str, str]:
    """The SVG files by name, of a detail with `sizes` (by bytes) and `streams` (by count)."""
    return {
        "cpu-by-size.svg": plot(
            "CPU of a push, by the size of the blob",
            "size of the blob",
            _CPU,
            _series(detail["sizes"]),
            tick=binary,
        ),
        "cpu-by-streams.svg": plot(
            "CPU of a push, by how many run at once",
            "pushes at once",
            _CPU,
            _series(detail["streams"]),
        ),
    }


def main(argv: list[str]) -> int:
    """Draw, write, and say from which table."""
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/plots.")
    parser.add_argument("tables", type=Path, nargs="+", help="JSON files that bench/table.py wrote")
    options = parser.parse_args(argv)
    try:
        path, detail = newest(options.tables)
    except ValueError as error:
        parser.error(str(error))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(detail).items():
        (FOLDER / name).write_text(picture, encoding="utf-8")
        print(f"docs/plots/{name} from {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
