"""The charts of docs/plots: XML that a reader can take, and points where their values are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from bench.harness.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, plot
from bench.plots import binary, newest, pictures

SVG = "{http://www.w3.org/2000/svg}"
GIB = 1 << 30


def _groups(root: Element) -> dict[str | None, Element]:
    """The drawn series by name."""
    return {
        group.findtext(f"{SVG}title"): group
        for group in root.iter(f"{SVG}g")
        if group.attrib.get("class", "").startswith("series")
    }


def _points(group: Element) -> list[tuple[float, float]]:
    return [
        (float(circle.attrib["cx"]), float(circle.attrib["cy"]))
        for circle in group.iter(f"{SVG}circle")
    ]


def _texts(root: Element) -> list[str | None]:
    return [element.text for element in root.iter(f"{SVG}text")]


def test_the_points_lie_where_their_values_are() -> None:
    series = {"a": [(4.0, 1.0), (1.0, 0.5), (2.0, 0.0)], "b": [(1.0, 0.25)]}
    root = ElementTree.fromstring(plot("t", "x", "y", series))
    assert (
        (root.attrib["width"], root.attrib["height"])
        == (str(WIDTH), str(HEIGHT))
        == (
            "720",
            "360",
        )
    )
    groups = _groups(root)
    (x1, y1), (x2, y2), (x4, y4) = _points(groups["a"])
    assert (y4, y2) == (TOP, BOTTOM)  # y begins at 0
    assert y1 == (TOP + BOTTOM) / 2
    assert x2 - x1 == pytest.approx(x4 - x2, abs=0.2)  # as far for every doubling
    assert LEFT < x1 < x4 < RIGHT
    assert _points(groups["b"]) == [(x1, BOTTOM - (BOTTOM - TOP) / 4)]
    line = groups["a"].find(f"{SVG}polyline")
    assert line is not None
    assert line.attrib["points"] == f"{x1},{y1} {x2},{y2} {x4},{y4}"


@pytest.mark.parametrize("log_x", [True, False])
@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 0.0)],
        [(3.0, 0.3), (7.0, 0.9)],
        [(1e6, 6.0), (4e10, 1e-6)],
        [(0.001, 1.1), (0.5, 123456.0)],
        [(float(1 << power), 0.1 * power) for power in range(37)],
    ],
)
def test_whatever_the_values_they_lie_in_the_frame(
    points: list[tuple[float, float]], log_x: bool
) -> None:
    root = ElementTree.fromstring(plot("t", "x", "y", {"a": points}, log_x=log_x))
    drawn = _points(_groups(root)["a"])
    assert len(drawn) == len(points)
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in drawn)
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.attrib["x"]) < WIDTH
        assert 0 < float(text.attrib["y"]) < HEIGHT


def test_labels_are_powers_of_two_and_round_numbers() -> None:
    points = [(GIB / 16, 0.42), (40.0 * GIB, 0.31)]
    texts = _texts(ElementTree.fromstring(plot("t", "x", "y", {"a": points}, tick=binary)))
    assert [text for text in texts if text and text.endswith("iB")] == [
        *(f"{1 << power} MiB" for power in range(6, 10)),
        *(f"{1 << power} GiB" for power in range(7)),
    ]
    assert {"0.0", "0.1", "0.2", "0.3", "0.4", "0.5"} <= set(texts)
    wide = _texts(ElementTree.fromstring(plot("t", "x", "y", {"a": [(1, 1), (2.0**36, 1)]})))
    assert len(wide) < 24


def test_whiskers_reach_from_the_least_to_the_most() -> None:
    picture = plot(
        "t", "x", "y", {"a": [(2, 1), (1, 2)], "b": [(1, 1)]}, whiskers={"a": [(0, 1.5), (1, 4)]}
    )
    groups = _groups(ElementTree.fromstring(picture))
    whiskers = groups["a"].findall(f"{SVG}g[@class='whisker']")
    spans = []
    for whisker, (x, _) in zip(whiskers, _points(groups["a"]), strict=True):
        stem, *caps = whisker.findall(f"{SVG}line")
        assert float(stem.attrib["x1"]) == float(stem.attrib["x2"]) == x
        spans.append([float(stem.attrib["y1"]), float(stem.attrib["y2"])])
        assert [float(cap.attrib["y1"]) for cap in caps] == spans[-1]
    unit = (BOTTOM - TOP) / 4
    assert spans == [[BOTTOM - unit, TOP], [BOTTOM, pytest.approx(BOTTOM - 1.5 * unit)]]
    assert groups["b"].find(f"{SVG}g") is None


def test_names_are_escaped() -> None:
    names = ["<title> & \"more\" 'x'", "x < y", "y & z", "</text>"]
    title, x_label, y_label, series = names
    picture = plot(title, x_label, y_label, {series: [(1, 1)]}, tick=lambda x: f"<{x:g}&>")
    root = ElementTree.fromstring(picture)
    assert {*names, "<1&>"} <= set(_texts(root))
    assert root.findtext(f"{SVG}title") == title
    assert set(_groups(root)) == {series}


@pytest.mark.parametrize(
    ("series", "whiskers"),
    [
        ({}, None),
        ({"a": []}, None),
        ({name: [(1.0, 1.0)] for name in "abcde"}, None),
        ({"a": [(0.0, 1.0)]}, None),
        ({"a": [(1.0, -1.0)]}, None),
        ({"a": [(1.0, float("nan"))]}, None),
        ({"a": [(float("inf"), 1.0)]}, None),
        ({"a": [(1.0, 1.0)]}, {"a": []}),
        ({"a": [(1.0, 1.0)]}, {"a": [(-1.0, 1.0)]}),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    series: dict[str, list[tuple[float, float]]],
    whiskers: dict[str, list[tuple[float, float]]] | None,
) -> None:
    with pytest.raises(ValueError, match=r"series of|finite|shorter"):
        plot("t", "x", "y", series, whiskers=whiskers)


def _table(path: Path, *details: Mapping[str, object]) -> Path:
    rows = [{"number": 11, "detail": detail} for detail in details]
    path.write_text(json.dumps({"rows": [{"number": 1, "detail": {"sizes": {}}}, *rows]}))
    return path


def test_the_newest_table_that_has_the_figures_is_drawn(tmp_path: Path) -> None:
    figures = {"epoch": 0.5, "floor": 0.4, "resident": 1}
    sizes, streams = {"sizes": {str(GIB): figures}}, {"streams": {"8": figures, "1": figures}}
    paths = [
        _table(tmp_path / "table-2026-01-03T000000.json", sizes),
        _table(tmp_path / "table-2026-01-01T000000.json", sizes, streams),
        _table(tmp_path / "table-2026-01-02T000000.json", sizes, streams),
    ]
    path, detail = newest(paths)
    assert path == paths[2]
    drawn = pictures(detail)
    assert {
        name: {series: len(_points(group)) for series, group in _groups(root).items()}
        for name, root in ((name, ElementTree.fromstring(svg)) for name, svg in drawn.items())
    } == {
        "cpu-by-size.svg": {"Epoch": 1, "Floor": 1},
        "cpu-by-streams.svg": {"Epoch": 2, "Floor": 2},
    }
    with pytest.raises(ValueError, match="no table"):
        newest(paths[:1])


def test_sizes_are_written_in_their_own_unit() -> None:
    sizes = [1, 1536, GIB // 16, GIB, 64 * GIB, 2048 * GIB]
    assert [binary(size) for size in sizes] == [
        "1 B",
        "1.5 KiB",
        "64 MiB",
        "1 GiB",
        "64 GiB",
        "2 TiB",
    ]
