"""Byte ranges of a representation, and conditions (RFC 9110, sections 13.1 and 14)."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

Span = tuple[int, int]
"""Bytes from a start to an exclusive stop."""

MAX_RANGES: Final = 32
"""In one request; with more the answer is the whole, as RFC 9110, section 14.2, allows."""

_UNIT: Final = re.compile(r"bytes=", re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9]*)-([0-9]*)", re.ASCII)
_HUGE: Final = 2**63


class Unsatisfiable(Exception):
    """No byte of the representation lies in the ranges."""


def parse(header: str, size: int) -> list[Span] | None:
    """The bytes that a Range asks for, in its order, apart from one another: what overlaps or
    adjoins is made one. None: all of them, answered 200.

    None is for what a server may ignore: other units, malformed ones, more than `MAX_RANGES`, and
    any range of an empty representation (there is no valid 206 for it). `b-a` with a < b could be
    ignored too, but clients and the OCI conformance program expect `Unsatisfiable`.
    """
    unit = _UNIT.match(header.strip())
    if unit is None or size == 0:
        return None
    texts = [text.strip(" \t") for text in header.strip()[unit.end() :].split(",")]
    matches = [_RANGE.fullmatch(text) for text in texts if text]
    if not 0 < len(matches) <= MAX_RANGES:
        return None
    spans = []
    for matched in matches:
        if matched is None or matched[0] == "-":
            return None
        span = _span(matched[1], matched[2], size)
        if span is not None:
            spans.append(span)
    if not spans:
        raise Unsatisfiable
    return _apart(spans)


def wanted(headers: Mapping[str, str], etag: str, size: int) -> list[Span] | None:
    """The ranges of a GET, after If-Range: one that names another version means all of it."""
    condition = headers.get("if-range")
    if condition is not None and condition.strip() != etag:
        return None
    header = headers.get("range")
    return None if header is None else parse(header, size)


def _span(first: str, last: str, size: int) -> Span | None:
    """One range, cut to the representation; None where no byte lies in it."""
    if not first:
        start, stop = max(0, size - _number(last)), size
    else:
        start, stop = _number(first), min(_number(last) + 1, size) if last else size
    return (start, stop) if start < stop else None


def _apart(spans: Iterable[Span]) -> list[Span]:
    """The spans in their order, each joined with those before it that it touches."""
    found: list[Span] = []
    for start, stop in spans:
        touched = [span for span in found if span[0] <= stop and start <= span[1]]
        place = found.index(touched[0]) if touched else len(found)
        joined = [*touched, (start, stop)]
        found = [span for span in found if span not in touched]
        found.insert(place, (min(s[0] for s in joined), max(s[1] for s in joined)))
    return found


def _number(digits: str) -> int:
    # int() is quadratic and refuses long texts; anything that long is past every object.
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) < 19 else _HUGE
