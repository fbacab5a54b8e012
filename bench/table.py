"""The table of docs/performance.md, measured anew: every target, what came out, met or not.

    python bench/table.py                     all rows, a quarter of an hour
    python bench/table.py --rows push,get     some of them
    python bench/table.py --runs 3            fewer rounds

Everything runs in processes of its own on loopback ports that the kernel chooses. Figures are
medians, ratios are taken round by round. Keep the machine quiet meanwhile.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `bench` itself lies

from bench.harness.build import BENCH
from bench.harness.measure import weather
from bench.harness.report import machine
from bench.harness.row import Row

MODULES: Final = (
    *("push", "streams", "cores", "growth", "tls"),
    *("pull", "requests", "idle", "start", "peers"),
)
"""Of `bench.rows`, in the order in which they run."""

_HEADINGS: Final = ("#", "what", "target", "measured", "spread", "met")


def _cells(row: Row) -> tuple[str, ...]:
    sign = ">=" if row.at_least else "<="
    return (
        str(row.number),
        row.what,
        f"{sign} {row.target:g} {row.unit}",
        f"{row.value:.3g} {row.unit}",
        f"{min(row.values):.3g}-{max(row.values):.3g}",
        "yes" if row.met else "NO",
    )


def _markdown(rows: list[Row]) -> str:
    lines = [_HEADINGS, ("---",) * len(_HEADINGS), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _rows(name: str, runs: int) -> Iterator[Row]:
    measure: Callable[[int], Iterator[Row]] = import_module(f"bench.rows.{name}").rows
    yield from measure(runs)


def main(argv: list[str]) -> int:
    """Measure, print each row when it is there, write JSON and Markdown; 1: a target is missed."""
    parser = argparse.ArgumentParser(description="Measure every target of docs/performance.md.")
    parser.add_argument("--rows", default=",".join(MODULES), help="which (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count (default 5)")
    options = parser.parse_args(argv)
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['revision']}")
    before, began = weather(), time.monotonic()
    found: list[Row] = []
    for name in options.rows.split(","):
        for row in _rows(name, options.runs):
            found.append(row)
            print("  ".join(_cells(row)), row.detail.get("note", ""), flush=True)
    found.sort(key=lambda row: row.number)
    folder = BENCH / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"table-{about['time'].replace(':', '')[:17]}.json"
    path.write_text(
        json.dumps(
            {
                "machine": about,
                "weather": [before, weather()],
                "seconds": round(time.monotonic() - began, 1),
                "rows": [asdict(row) | {"value": row.value, "met": row.met} for row in found],
            },
            indent=1,
        )
    )
    path.with_suffix(".md").write_text(_markdown(found))
    print(f"-> {path} and .md")
    return 0 if all(row.met for row in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
