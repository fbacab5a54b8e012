"""Byte ranges and conditions of a GET (RFC 9110, sections 13.1 and 14)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epoch.download import ranges

ETAG = '"sha256:00"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=500-1499", (500, 1500)),
        ("bytes=500-", (500, 2048)),
        ("bytes=-500", (1548, 2048)),
        ("bytes=2000-5000", (2000, 2048)),
        ("bytes=0-0", (0, 1)),
        ("bytes=2047-2047", (2047, 2048)),
        ("bytes=-5000", (0, 2048)),
        ("Bytes= 1-2 ", (1, 3)),
        ("bytes=0-" + "9" * 5000, (0, 2048)),
        ("bytes=" + "0" * 5000 + "1-2", (1, 3)),
        ("bytes=-" + "9" * 5000, (0, 2048)),
    ],
)
def test_one_range(header: str, expected: tuple[int, int]) -> None:
    assert ranges.parse(header, 2048) == [expected]


@pytest.mark.parametrize(
    "header",
    ["bytes=500-0", "bytes=2048-", "bytes=5000-10000", "bytes=-0", "bytes=" + "9" * 5000 + "-"],
)
def test_no_byte_lies_in_it(header: str) -> None:
    with pytest.raises(ranges.Unsatisfiable):
        ranges.parse(header, 2048)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=,",
        "bytes=1-2;4-5",
        "bytes=1-2,x",
        "bytes=1-2,-",
        "bytes=" + "1-2," * 33,
        "bytes=+1-2",
        "bytes=1--2",
        "bytes=\u0661-\u0662",
        "items=0-5",
        "bytes 0-5",
        "0-5",
    ],
)
def test_what_may_be_ignored_is(header: str) -> None:
    assert ranges.parse(header, 2048) is None


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-2"])
def test_an_empty_representation_has_no_ranges(header: str) -> None:
    assert ranges.parse(header, 0) is None


@given(st.binary(min_size=1, max_size=64), st.integers(0, 80), st.integers(0, 80))
def test_a_range_names_the_slice_that_python_does(data: bytes, first: int, last: int) -> None:
    try:
        span = ranges.parse(f"bytes={first}-{last}", len(data))
    except ranges.Unsatisfiable:
        assert not data[first : last + 1]
    else:
        assert span is not None
        assert [data[start:stop] for start, stop in span] == [data[first : last + 1]] != [b""]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0,5-6", [(0, 1), (5, 7)]),
        ("bytes=5-6, 0-0", [(5, 7), (0, 1)]),
        ("bytes= 0-0 ,\t5-6 ,, -3", [(0, 1), (5, 7), (97, 100)]),
        ("bytes=0-4,5-9", [(0, 10)]),
        ("bytes=5-9,0-4", [(0, 10)]),
        ("bytes=0-9,3-4,20-,-90", [(0, 100)]),
        ("bytes=50-59,0-9,55-70,90-95", [(50, 71), (0, 10), (90, 96)]),
        ("bytes=0-9,40-49,10-39", [(0, 50)]),
        ("bytes=0-0,100-200", [(0, 1)]),
        ("bytes=7-5,2-2", [(2, 3)]),
        ("bytes=" + ",".join(f"{at * 3}-{at * 3}" for at in range(32)), None),
        ("bytes=" + ",".join(f"{at * 3}-{at * 3}" for at in range(33)), "whole"),
    ],
)
def test_several_ranges(header: str, expected: list[tuple[int, int]] | str | None) -> None:
    if expected is None:
        expected = [(at * 3, at * 3 + 1) for at in range(32)]
    assert ranges.parse(header, 100) == (None if expected == "whole" else expected)


@pytest.mark.parametrize("header", ["bytes=100-,200-201", "bytes=-0,100-", "bytes=9-1,8-2"])
def test_no_byte_lies_in_any_of_them(header: str) -> None:
    with pytest.raises(ranges.Unsatisfiable):
        ranges.parse(header, 100)


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), min_size=1, max_size=32),
)
def test_ranges_name_each_byte_once(size: int, asked: list[tuple[int, int]]) -> None:
    wanted = {at for first, last in asked for at in range(first, last + 1) if at < size}
    try:
        spans = ranges.parse("bytes=" + ",".join(f"{a}-{b}" for a, b in asked), size)
    except ranges.Unsatisfiable:
        assert not wanted
        return
    assert spans is not None
    given_out = [at for start, stop in spans for at in range(start, stop)]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) == wanted
    ends = {stop for _, stop in spans}
    assert not ends & {start for start, _ in spans}  # what adjoins is joined


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (None, (1, 2)),
        (ETAG, (1, 2)),
        ('"sha256:01"', None),
        (f"W/{ETAG}", None),
        ("Sun, 22 Nov 2026 00:00:00 GMT", None),
    ],
)
def test_if_range(condition: str | None, expected: tuple[int, int] | None) -> None:
    headers = {"range": "bytes=1-1"} | ({"if-range": condition} if condition else {})
    assert ranges.wanted(headers, ETAG, 10) == (expected and [expected])
