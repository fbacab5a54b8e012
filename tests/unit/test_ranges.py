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
    assert ranges.parse(header, 2048) == expected


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
        "bytes=1-2,4-5",
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
        assert data[span[0] : span[1]] == data[first : last + 1] != b""


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
    assert ranges.wanted(headers, ETAG, 10) == expected
