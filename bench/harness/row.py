"""One line of the table: what is measured, what it is to be, what came out."""

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A figure beside its target. One value for each run; the median is judged."""

    number: int
    """Of the target, as in docs/performance.md; several rows may belong to one."""
    what: str
    unit: str
    """Of the values: `x floor`, `kB`, `s`, ..."""
    target: float
    values: list[float]
    at_least: bool = False
    """The target is the least, not the most, that it may be."""
    detail: dict[str, Any] = field(default_factory=dict)
    """What else was measured on the way, for the JSON; `note` is printed too."""

    @property
    def value(self) -> float:
        """The median."""
        return float(statistics.median(self.values))

    @property
    def met(self) -> bool:
        """Whether the median keeps to the target."""
        return self.value >= self.target if self.at_least else self.value <= self.target
