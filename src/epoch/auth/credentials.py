"""What a client shows in Authorization (RFC 9110, section 11; RFC 7617; RFC 6750)."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Basic:
    """A user and a password."""

    user: str
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token."""

    token: str = field(repr=False)


class Malformed(Exception):
    """There is something, but it is neither Basic nor Bearer. The text does not hold it."""


def parse(authorization: str | None) -> Basic | Bearer | None:
    """The credentials; None where there are none. Basic with neither user nor password is none:
    so clients without credentials answer a challenge. `Malformed`: it cannot be read."""
    if authorization is None:
        return None
    scheme, _, rest = authorization.partition(" ")
    value = rest.strip(" ")
    if not value.isascii() or not value.isprintable() or " " in value or not value:
        raise Malformed("malformed credentials")
    if scheme.lower() == "bearer":
        return Bearer(value)
    if scheme.lower() == "basic":
        return _basic(value)
    raise Malformed("credentials must be Basic or Bearer")


def same(shown: str | bytes, secret: str) -> bool:
    """Whether both are equal, in a time that does not tell where they differ."""
    data = shown.encode("utf-8", "surrogateescape") if isinstance(shown, str) else shown
    return hmac.compare_digest(data, secret.encode("utf-8", "surrogateescape"))


def _basic(value: str) -> Basic | None:
    try:
        user, colon, password = base64.b64decode(value, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        raise Malformed("malformed Basic credentials") from None
    if not colon:
        raise Malformed("malformed Basic credentials")
    if not user and not password:
        return None
    return Basic(user.decode("utf-8", "surrogateescape"), password)
