"""One byte range of a representation (RFC 9110, sections 13.1 and 14)."""

import re
from collections.abc import Mapping
from typing import Final

_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII | re.IGNORECASE)
_HUGE: Final = 2**63


class Unsatisfiable(Exception):
    """No byte of the representation lies in the range."""


def parse(header: str, size: int) -> tuple[int, int] | None:
    """The bytes that a Range asks for, as start and exclusive stop; None: all, answered 200.

    None is for what a server may ignore: other units, malformed ones, several ranges, and any
    range of an empty representation (there is no valid 206 for it). `b-a` with a < b could be
    ignored too, but clients and the OCI conformance program expect `Unsatisfiable`.
    """
    matched = _RANGE.fullmatch(header.strip())
    if matched is None or size == 0:
        return None
    first, last = matched.groups()
    if not first:
        return _suffix(last, size)
    start = _number(first)
    stop = _number(last) + 1 if last else size
    if start >= size or stop <= start:
        raise Unsatisfiable
    return start, min(stop, size)


def wanted(headers: Mapping[str, str], etag: str, size: int) -> tuple[int, int] | None:
    """The range of a GET, after If-Range: one that names another version means all of it."""
    condition = headers.get("if-range")
    if condition is not None and condition.strip() != etag:
        return None
    header = headers.get("range")
    return None if header is None else parse(header, size)


def _suffix(last: str, size: int) -> tuple[int, int] | None:
    if not last:
        return None
    length = _number(last)
    if length == 0:
        raise Unsatisfiable
    return max(0, size - length), size


def _number(digits: str) -> int:
    # int() is quadratic and refuses long texts; anything that long is past every object.
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) < 19 else _HUGE
