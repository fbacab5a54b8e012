"""A name for each request, by which a client's trouble is found in the log."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping
from typing import Final

FIELD: Final = b"X-Request-Id"

_HARMLESS: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What is taken of a client or a proxy: it is written to the log and sent back as it is."""

_PREFIX: Final = secrets.token_hex(6)
"""Of this process: workers and replicas count on their own."""

_numbers = itertools.count(1)


def request_id(headers: Mapping[str, str]) -> str:
    """The id that came with the request where it is short and harmless, else a new one."""
    given = headers.get("x-request-id")
    if given is not None and _HARMLESS.fullmatch(given) is not None:
        return given
    return f"{_PREFIX}-{next(_numbers):x}"
