"""ETags that are MD5 sums: those of most stores, of objects that were stored in one piece.

An encrypted bucket (SSE-KMS) answers ETags that only look like one, and a directory none at all.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?', re.ASCII)


def md5_in(etag: str) -> str | None:
    """Returns the 32 hex digits of an ETag that looks like an MD5 sum, else None."""
    found = _MD5.fullmatch(etag)
    return None if found is None else found[1]


def is_md5_of(etag: str, data: Buffer) -> bool:
    """Returns whether an ETag is the MD5 sum of these bytes."""
    found = md5_in(etag)
    return found is not None and found == hashlib.md5(data, usedforsecurity=False).hexdigest()
