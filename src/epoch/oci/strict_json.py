"""JSON from strangers: one object, read in bounded time, that every parser reads the same way."""

import json
import re
from typing import Any, Final

MAX_CONTAINERS: Final = 40_000
"""Opening braces and brackets, those inside strings too. 4 MiB of real descriptors have fewer."""
MAX_COMMAS: Final = 200_000
MAX_INTEGER_DIGITS: Final = 20

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, or `ValueError` with a reason that may be shown to the client.

    Stricter than `json.loads`, so that no two readers of the same bytes can disagree (RFC 7493):
    UTF-8 only, no duplicate keys, no NaN, no unpaired surrogates. The number of values is bounded
    before anything is parsed: 4 MiB of `{"":0},` would hold the event loop for 800 ms.
    """
    if data.count(b"{") + data.count(b"[") > MAX_CONTAINERS or data.count(b",") > MAX_COMMAS:
        raise ValueError("too many JSON values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
        )
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("JSON is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if _SURROGATE.search(data):
        _check_surrogates(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate keys in a JSON object")
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _bounded_int(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError("a number with too many digits")
    return int(text)


def _check_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("an unpaired surrogate in a JSON string") from None
