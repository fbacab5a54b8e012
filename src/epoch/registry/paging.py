"""The `n` and `last` of a list, and its Link (distribution-spec, "Listing Tags"; RFC 8288)."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, urlencode

from epoch.errors import Code, RegistryError
from epoch.http.message import Request

_COUNT: Final = re.compile(r"[0-9]+", re.ASCII)


def page(request: Request, path: str, items: Sequence[str]) -> tuple[list[str], str | None]:
    """The asked-for page of `items`, which are sorted, and the value of its Link or None.

    `last` is exclusive and need not be an item. `n=0` is an empty page without a Link.
    """
    start = bisect_right(items, request.parameter("last") or "")
    count = _count(request, len(items))
    shown = list(items[start : start + count])
    if not shown or start + count >= len(items):
        return shown, None
    return shown, next_link(path, [("n", str(count)), ("last", shown[-1])])


def next_link(path: str, query: Sequence[tuple[str, str]]) -> str:
    """The value of a Link to the next page, relative to the host."""
    return f'<{quote(path)}?{urlencode(query)}>; rel="next"'


def _count(request: Request, most: int) -> int:
    text = request.parameter("n")
    if text is None:
        return most
    if _COUNT.fullmatch(text) is None:
        raise RegistryError(Code.UNSUPPORTED, "n must be a number, at least 0", status=400)
    # Never converted when it is absurd: the size of a page is bound by what there is.
    digits = text.lstrip("0")
    return most if len(digits) > 9 else min(int(digits or "0"), most)
