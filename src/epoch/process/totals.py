"""The metrics of several processes as one: sums, in Prometheus' text format.

Source: prometheus.io/docs/instrumenting/exposition_formats, "Text-based format".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

_LEAST: Final = frozenset({"process_start_time_seconds", "process_max_fds"})
_SAME: Final = frozenset({"epoch_build_info"})
_KEPT: Final = frozenset({"counter", "histogram"})


@dataclass(slots=True)
class _Family:
    help: str = ""
    type: str = ""
    samples: dict[str, float] = field(default_factory=dict)
    """By name and labels, as written."""


def total(texts: Iterable[str], gone: Iterable[str] = ()) -> str:
    """The sum of what processes report, and of the counters of those that are `gone`."""
    families: dict[str, _Family] = {}
    for text in texts:
        for name, family in _parse(text).items():
            _add(families.setdefault(name, _Family(family.help, family.type)), family, name)
    for text in gone:
        for name, family in _parse(text).items():
            if family.type in _KEPT and not name.startswith("process_"):
                _add(families.setdefault(name, _Family(family.help, family.type)), family, name)
    lines = []
    for name, family in families.items():
        lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.type}"]
        lines += [f"{sample} {value!r}" for sample, value in family.samples.items()]
    return "\n".join([*lines, ""])


def _add(into: _Family, family: _Family, name: str) -> None:
    for sample, value in family.samples.items():
        before = into.samples.get(sample)
        if before is None or name in _SAME:
            into.samples[sample] = value
        else:
            into.samples[sample] = min(before, value) if name in _LEAST else before + value


def _parse(text: str) -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    family = _Family()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, help_text = line.removeprefix("# HELP ").partition(" ")
            family = families.setdefault(name, _Family(help_text))
        elif line.startswith("# TYPE "):
            family.type = line.rpartition(" ")[2]
        elif line:
            sample, _, value = line.rpartition(" ")
            family.samples[sample] = float(value)
    return families
