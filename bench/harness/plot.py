"""A chart of lines and points as one SVG file that reads well on a light and on a dark page.

The picture brings its own background and both sets of colours: which of them is shown is decided by
`prefers-color-scheme` (Media Queries Level 5, section 12.5), and text never stands on a ground that
it was not chosen for. Nothing is loaded from elsewhere, so that it also works inside an `<img>`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

Point = tuple[float, float]

WIDTH: Final = 720
"""Of the picture, in pixels."""
HEIGHT: Final = 360
LEFT: Final = 56
"""The frame in which the points lie: its four sides, in pixels from the top left corner."""
RIGHT: Final = 688
TOP: Final = 76
BOTTOM: Final = 304

_MOST_X: Final = 10
"""Steps between labels for which the frame is wide enough, where a label is like `512 MiB`."""
_MOST_Y: Final = 6
_RADIUS: Final = 3.5
_CAP: Final = 4
"""Half of the short line that ends a whisker, in pixels."""
_CHARACTER: Final = 6.8
"""Pixels that a character of the legend takes, rather too many than too few."""

_LIGHT: Final = ("#ffffff", "#1f2328", "#59636e", "#d1d9e0")
"""Ground, text, lesser text, lines of the grid."""
_DARK: Final = ("#0d1117", "#f0f6fc", "#9198a1", "#3d444d")
_LIGHT_SERIES: Final = ("#0969da", "#bc4c00", "#1a7f37", "#8250df")
_DARK_SERIES: Final = ("#4493f8", "#db6d28", "#3fb950", "#ab7df8")


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where a value lies between two pixels. `ticks` ascend, and the outer two are its ends."""

    ticks: list[float]
    begin: float
    end: float
    scale: Callable[[float], float] = float

    def at(self, value: float) -> float:
        low, high = self.scale(self.ticks[0]), self.scale(self.ticks[-1])
        return self.begin + (self.scale(value) - low) / (high - low) * (self.end - self.begin)


def _linear(most: float, steps: int, begin: float, end: float) -> _Axis:
    """From 0 to the first round number that is not below `most`, in steps of 1, 2 or 5."""
    most = most or 1.0
    tens = 10.0 ** math.floor(math.log10(most / steps))
    step = next(each * tens for each in (1, 2, 5, 10, 20) if most <= each * tens * steps)
    return _Axis([index * step for index in range(math.ceil(most / step) + 1)], begin, end)


def _powers(least: float, most: float, begin: float, end: float) -> _Axis:
    """From the power of two that is not above `least` to one that is not below `most`."""
    low, high = math.floor(math.log2(least)), math.ceil(math.log2(most))
    step = max(1, math.ceil((high - low) / _MOST_X))
    count = max(1, math.ceil((high - low) / step))
    powers = [2.0 ** (low + index * step) for index in range(count + 1)]
    return _Axis(powers, begin, end, math.log2)


def _decimals(ticks: Sequence[float]) -> list[str]:
    """The labels of ticks, all with as many decimals as the one that needs the most."""
    places = max(len(f"{tick:g}".partition(".")[2]) for tick in ticks)
    return [f"{tick:.{places}f}" for tick in ticks]


def _colors(series: Sequence[str], ground: str, text: str, lesser: str, grid: str) -> Iterator[str]:
    yield f".ground {{ fill: {ground} }} text {{ fill: {lesser} }} .head {{ fill: {text} }}"
    yield f".grid {{ stroke: {grid} }} .axis {{ stroke: {lesser} }}"
    for index, color in enumerate(series):
        yield f".s{index} {{ stroke: {color} }} .s{index} circle {{ fill: {color} }}"


def _style() -> Iterator[str]:
    yield "<style>"
    yield "text { font-variant-numeric: tabular-nums }"
    yield from _colors(_LIGHT_SERIES, *_LIGHT)
    yield "@media (prefers-color-scheme: dark) {"
    yield from _colors(_DARK_SERIES, *_DARK)
    yield "}"
    yield "</style>"


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{more}/>'


def _frame(x: _Axis, y: _Axis, tick: Callable[[float], str]) -> Iterator[str]:
    """The grid, the axes, and what stands at their ticks."""
    for value, label in zip(y.ticks, _decimals(y.ticks), strict=True):
        at = y.at(value)
        yield _line(LEFT, at, RIGHT, at, ' class="grid"')
        yield _text(LEFT - 10, at + 4, label, ' text-anchor="end"')
    yield _line(LEFT, BOTTOM, RIGHT, BOTTOM, ' class="axis"')
    for value in x.ticks:
        at = x.at(value)
        yield _line(at, BOTTOM, at, BOTTOM + 5, ' class="axis"')
        yield _text(at, BOTTOM + 20, tick(value), ' text-anchor="middle"')


def _legend(names: Sequence[str]) -> Iterator[str]:
    """Names with their marks in a row that ends at the right side of the frame."""
    x = RIGHT - sum(len(name) * _CHARACTER + 44 for name in names) + 16
    for index, name in enumerate(names):
        mark = _line(x, 52, x + 20, 52, ' stroke-width="2"')
        yield f'<g class="s{index}">{mark}<circle cx="{x + 10:.1f}" cy="52" r="{_RADIUS}"/></g>'
        yield _text(x + 28, 56, name)
        x += len(name) * _CHARACTER + 44


def _series(
    points: Sequence[tuple[Point, Point | None]], x: _Axis, y: _Axis, tick: Callable[[float], str]
) -> Iterator[str]:
    """One line: its whiskers, then the way from point to point, then the points."""
    for (at, _), spread in points:
        if spread:
            middle, low, high = x.at(at), y.at(spread[0]), y.at(spread[1])
            yield f'<g class="whisker">{_line(middle, low, middle, high)}'
            for end in (low, high):
                yield _line(middle - _CAP, end, middle + _CAP, end)
            yield "</g>"
    way = " ".join(f"{x.at(at):.1f},{y.at(value):.1f}" for (at, value), _ in points)
    yield f'<polyline points="{way}" fill="none" stroke-width="2" stroke-linejoin="round"/>'
    for (at, value), _ in points:
        hint = escape(f"{tick(at)}: {value:.3g}")
        yield f'<circle cx="{x.at(at):.1f}" cy="{y.at(value):.1f}" r="{_RADIUS}">'
        yield f"<title>{hint}</title></circle>"


def _paired(
    series: Mapping[str, Sequence[Point]], whiskers: Mapping[str, Sequence[Point]]
) -> dict[str, list[tuple[Point, Point | None]]]:
    """Every point with its whisker, by x."""
    return {
        name: sorted(
            zip(points, whiskers.get(name, [None] * len(points)), strict=True),
            key=lambda each: each[0][0],
        )
        for name, points in series.items()
    }


def plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[Point]],
    *,
    log_x: bool = True,
    tick: Callable[[float], str] = "{:g}".format,
    whiskers: Mapping[str, Sequence[Point]] | None = None,
) -> str:
    """The picture of up to four series of points (x, y), each joined by a line in the order of x.

    y begins at 0; x goes by powers of two, or, without `log_x`, from 0. `tick` writes a value of x.
    `whiskers` are the least and the most for each point of a series, in the order of its points.
    ValueError: no points, too many series, a value that no place in the frame belongs to, or
    whiskers that are not one for each point.
    """
    paired = _paired(series, whiskers or {})
    spreads = [spread for points in (whiskers or {}).values() for spread in points]
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points] + [
        y for ends in spreads for y in ends
    ]
    if not xs or len(series) > len(_LIGHT_SERIES):
        raise ValueError(f"{len(series)} series of {len(xs)} points: 1 to {len(_LIGHT_SERIES)}")
    if not all(0 <= value < math.inf for value in xs + ys) or (log_x and min(xs) == 0):
        raise ValueError("values must be finite and not below 0; those of a log scale above it")
    # Half a marker's room on either side, so that the first and the last do not hang over the axis.
    ends = LEFT + 16.0, RIGHT - 16.0
    x = _powers(min(xs), max(xs), *ends) if log_x else _linear(max(xs), _MOST_X, *ends)
    y = _linear(max(ys), _MOST_Y, BOTTOM, TOP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12" font-family="-apple-system, '
        "BlinkMacSystemFont, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif\">",
        f"<title>{escape(title)}</title>",
        *_style(),
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        _text(20, 30, title, ' class="head" font-size="16" font-weight="600"'),
        _text(20, 56, y_label),
        *_legend(list(series)),
        *_frame(x, y, tick),
        _text((LEFT + RIGHT) / 2, HEIGHT - 14, x_label, ' text-anchor="middle"'),
    ]
    for index, (name, points) in enumerate(paired.items()):
        lines += [f'<g class="series s{index}">', f"<title>{escape(name)}</title>"]
        lines += [*_series(points, x, y, tick), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"
