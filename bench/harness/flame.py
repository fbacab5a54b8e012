"""A flame graph as one SVG file: how often which function was on the stack, and under whom.

The width of a box is its share of all samples; its name and figures show as a tooltip, and a click
makes it as wide as the picture. Source of the idea: Brendan Gregg, "The Flame Graph", CACM 59(6).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

Stack = tuple[str, ...]
"""Frames from the outermost to the innermost."""

_WIDTH: Final = 1200
_ROW: Final = 17
_TOP: Final = 34
_LEAST: Final = 0.3
"""Pixels below which a box is left out."""
_CHARACTER: Final = 6.6
"""Pixels that a character of the text takes."""

_SCRIPT: Final = """
const boxes = [...document.querySelectorAll('g.box')];
function span(box) { return [+box.dataset.x, +box.dataset.w]; }
function zoom(to) {
  const [x0, w0] = span(to);
  for (const box of boxes) {
    const [x, w] = span(box);
    const around = x <= x0 && x + w >= x0 + w0;
    const left = around ? 0 : (x - x0) / w0 * WIDTH, wide = around ? WIDTH : w / w0 * WIDTH;
    box.style.display = around || (x >= x0 && x + w <= x0 + w0 + 1e-6) ? '' : 'none';
    const [rect, text] = [box.querySelector('rect'), box.querySelector('text')];
    rect.setAttribute('x', left); rect.setAttribute('width', Math.max(0, wide - 0.5));
    text.setAttribute('x', left + 3);
    const room = Math.floor((wide - 6) / CHARACTER);
    text.textContent = room < 3 ? '' : box.dataset.name.slice(0, room);
  }
}
for (const box of boxes) box.addEventListener('click', () => zoom(box));
"""


@dataclass(slots=True)
class _Box:
    name: str
    weight: float = 0.0
    inner: dict[str, _Box] = field(default_factory=dict)


def _tree(stacks: Mapping[Stack, float]) -> _Box:
    root = _Box("all")
    for stack, weight in stacks.items():
        root.weight += weight
        box = root
        for name in stack:
            box = box.inner.setdefault(name, _Box(name))
            box.weight += weight
    return root


def _color(name: str) -> str:
    """The same for the same name, in every picture: from yellow to red."""
    mark = zlib.crc32(name.encode())
    return f"rgb({205 + mark % 50},{80 + (mark >> 8) % 150},{(mark >> 16) % 55})"


def _boxes(box: _Box, x: float, depth: int, scale: float, bottom: int) -> Iterator[str]:
    width = box.weight * scale
    if width < _LEAST:
        return
    y = bottom - depth * _ROW
    name = escape(box.name, {'"': "&quot;"})
    share = 100 * width / _WIDTH
    room = int((width - 6) / _CHARACTER)
    text = escape(box.name[:room]) if room >= 3 else ""
    yield (
        f'<g class="box" data-x="{x:.2f}" data-w="{width:.2f}" data-name="{name}">'
        f"<title>{name}: {box.weight:g} samples, {share:.2f} %</title>"
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_ROW - 1}" '
        f'fill="{_color(box.name)}"/><text x="{x + 3:.2f}" y="{y + 12}">{text}</text></g>'
    )
    for inner in sorted(box.inner.values(), key=lambda each: each.name):
        yield from _boxes(inner, x, depth + 1, scale, bottom)
        x += inner.weight * scale


def svg(stacks: Mapping[Stack, float], title: str) -> str:
    """The picture of stacks and how often each was seen. ValueError where there is none."""
    root = _tree(stacks)
    if not root.weight:
        raise ValueError("no samples")
    height = _TOP + (max(map(len, stacks)) + 1) * _ROW + 6
    boxes = "\n".join(_boxes(root, 0.0, 1, _WIDTH / root.weight, height - 6))
    middle = f'x="{_WIDTH / 2}" y="20" text-anchor="middle" font-size="14"'
    script = _SCRIPT.replace("WIDTH", str(_WIDTH)).replace("CHARACTER", str(_CHARACTER))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="monospace" font-size="11">\n'
        '<rect width="100%" height="100%" fill="#fffdf4"/>\n'
        f"<text {middle}>{escape(title)}</text>\n"
        f"{boxes}\n<script><![CDATA[{script}]]></script>\n</svg>\n"
    )
