"""Bearer tokens: our own ones, and those of another issuer.

Which algorithm and which key a token is verified with is decided by us; of its head, `alg` must be
among those of our key, `kid` may choose among our keys, and `jwk`, `jku`, `x5c` are not looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from epoch.auth.issuer_keys import VerifyingKey, parse
from epoch.auth.scopes import SERVICE, Grants, TooMany, grants_of
from epoch.auth.watched import Fixed, Watched
from epoch.config import MIN_TOKEN_KEY, AuthSettings

MAX_BYTES: Final = 24 * 1024
"""Bytes of a token; more is neither issued nor read. Three quarters of what a request's head may
have (`HttpSettings.max_head`); enough for three actions in 140 repositories of 60 characters."""

LEEWAY: Final = 60
"""Seconds that clocks may be apart."""

LIFETIME: Final = 300
"""Seconds that a token of ours is good for. Long enough for the largest image: a token is looked
at when a request begins, and clients fetch another one whenever they are told 401."""

_TIMES: Final = ("exp", "nbf", "iat")


class InvalidToken(Exception):
    """The token is not to be trusted. The text does not hold it."""


@dataclass(frozen=True, slots=True)
class Token:
    """A verified token."""

    subject: str
    """The user; empty: anonymous."""

    grants: Grants


class OwnTokens:
    """Tokens that we sign and verify ourselves, with a key that all replicas share."""

    def __init__(self, key: Watched[bytes] | Fixed[bytes]) -> None:
        """`key`: see `derived`."""
        self._key = key
        self.reload: Final = key.reload

    def issue(self, subject: str, grants: Grants) -> tuple[str, int, int]:
        """A new token, the seconds that it is good for, and when it was made (Unix seconds).

        `TooMany`: it would be longer than `MAX_BYTES`, so that nobody would take it.
        """
        now = int(time.time())
        claims = {
            "iss": SERVICE,
            "aud": SERVICE,
            "sub": subject,
            "iat": now,
            "exp": now + LIFETIME,
            "access": grants.claim(),
        }
        text = jwt.encode(claims, self._key.current(), "HS256")
        if len(text) > MAX_BYTES:
            raise TooMany(f"a token for them would have {len(text)} bytes, {MAX_BYTES} at most")
        return text, LIFETIME, now

    def verify(self, text: str) -> Token:
        """The token's user and grants, or `InvalidToken`."""
        return _token(text, [VerifyingKey(None, self._key.current(), ("HS256",))], SERVICE, SERVICE)


class IssuedTokens:
    """Tokens that another service signs, and whose public keys we have."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: Watched[list[VerifyingKey]] | Fixed[list[VerifyingKey]],
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self.reload: Final = keys.reload

    def verify(self, text: str) -> Token:
        """The token's user and grants, or `InvalidToken`."""
        return _token(text, self._keys.current(), self._issuer, self._audience)


def derived(secret: bytes) -> bytes:
    """The key that signs our tokens: not the secret itself. ValueError: the secret is too short."""
    if len(secret) < MIN_TOKEN_KEY:
        raise ValueError(
            f"a token key is at least {MIN_TOKEN_KEY} bytes: make one with openssl rand -hex 32"
        )
    return hmac.digest(secret, b"epoch: access tokens, 1", hashlib.sha256)


def own_tokens(settings: AuthSettings) -> OwnTokens | None:
    """Ours, where there is a secret to sign them with. `SettingsError`: it cannot be read."""
    if settings.token_key is not None:
        return OwnTokens(Watched(settings.token_key, derived))
    if not settings.registry_token:
        return None
    # Everybody can have an anonymous token, and try to guess what it was signed with. That must
    # be much slower than a hash, should the token be a word.
    secret = settings.registry_token.encode()
    key = derived(hashlib.scrypt(secret, salt=b"epoch: registry token", n=1 << 14, r=8, p=1))
    return OwnTokens(Fixed(key))


def issued_tokens(settings: AuthSettings) -> IssuedTokens:
    """Those of the issuer that the settings name. `SettingsError`: the keys cannot be read."""
    assert settings.token_jwks is not None
    keys = Watched(settings.token_jwks, parse)
    return IssuedTokens(settings.token_issuer, settings.token_audience, keys)


def _token(text: str, keys: Sequence[VerifyingKey], issuer: str, audience: str) -> Token:
    if len(text) > MAX_BYTES or text.count(".") != 2:
        raise InvalidToken("not a token")
    try:
        head = jwt.get_unverified_header(text)
        if "crit" in head:
            raise InvalidToken("an extension that is not known here")
        key = _choose(keys, head.get("kid"))
        claims = jwt.decode(
            text,
            key.key,
            algorithms=list(key.algorithms),
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud"]},
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError) as error:
        # Nothing of the token is in the text of PyJWT's errors that a client could not know.
        raise InvalidToken(type(error).__name__) from None
    _check_times(claims)
    subject = claims.get("sub", "")
    return Token(subject, grants_of(claims.get("access")))


def _choose(keys: Sequence[VerifyingKey], kid: object) -> VerifyingKey:
    for key in keys:
        if key.kid is None or key.kid == kid:
            return key
    raise InvalidToken("signed with a key that is not known here")


def _check_times(claims: Mapping[str, Any]) -> None:
    """PyJWT takes texts for numbers."""
    for name in _TIMES:
        value = claims.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidToken(f"{name} is not a number")
