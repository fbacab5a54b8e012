"""Whose credentials are shown: the registry token, a user's password, or a bearer token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from epoch.auth.credentials import Basic, Bearer, Malformed, parse, same
from epoch.auth.htpasswd import Users
from epoch.auth.identity import Identity
from epoch.auth.policy import ANONYMOUS, OPEN, Policy
from epoch.config import AuthSettings
from epoch.http.message import Request

if TYPE_CHECKING:
    from epoch.auth.tokens import IssuedTokens, OwnTokens

OPERATOR: Final = Identity("operator", OPEN)
"""Whoever holds the registry token; rules do not bind it. Known by this very object: a user of
that name is another one."""


class Rejected(Exception):
    """Credentials were shown, and they are wrong. The text is for the client.

    `token`: whether it was a bearer token; another one may be right.
    """

    def __init__(self, message: str, *, token: bool = False) -> None:
        super().__init__(message)
        self.token = token


class Authenticator:
    """All ways to sign in that the settings name. `SettingsError`: a file cannot be read."""

    def __init__(self, settings: AuthSettings, policy: Callable[[], Policy]) -> None:
        """`policy`: what holds now."""
        self.registry_token: Final = settings.registry_token
        self.users: Final = Users(settings.htpasswd) if settings.htpasswd else None
        self.own_tokens: OwnTokens | None = None
        self._issued_tokens: IssuedTokens | None = None
        self._policy = policy
        if settings.token_issuer:
            from epoch.auth.tokens import issued_tokens

            self._issued_tokens = issued_tokens(settings)
        elif settings.token_key or settings.registry_token:
            from epoch.auth.tokens import own_tokens

            self.own_tokens = own_tokens(settings)

    async def identify(self, request: Request) -> Identity | None:
        """Who sent a request; None where no credentials are shown; or `Rejected`."""
        try:
            shown = parse(request.headers.get("authorization"))
        except Malformed as error:
            raise Rejected(str(error)) from None
        if isinstance(shown, Bearer):
            return self.bearer(shown.token)
        return None if shown is None else await self.basic(shown)

    async def basic(self, shown: Basic) -> Identity:
        """Whose password that is, or `Rejected`. The registry token is one, with any user."""
        if self.registry_token and same(shown.password, self.registry_token):
            return OPERATOR
        if self.users is not None and await self.users.verify(shown.user, shown.password):
            return Identity(shown.user, self._policy())
        raise Rejected("wrong user or password")

    def bearer(self, text: str) -> Identity:
        """Whose token that is, or `Rejected`."""
        if self.registry_token and same(text, self.registry_token):
            return OPERATOR
        tokens = self._issued_tokens or self.own_tokens
        if tokens is None:
            raise Rejected("tokens are not taken here", token=True)
        from epoch.auth.tokens import InvalidToken

        try:
            token = tokens.verify(text)
        except InvalidToken:
            raise Rejected("the token is invalid or has expired", token=True) from None
        if self._issued_tokens is not None:
            # What another service grants is its business alone.
            return Identity(token.subject or "unnamed", OPEN, token.grants, is_foreign=True)
        if token.subject != ANONYMOUS and not (self.users and self.users.has(token.subject)):
            raise Rejected("the user of the token is gone", token=True)
        return Identity(token.subject, self._policy(), token.grants)

    def reload(self) -> None:
        """Read the files with users and keys now."""
        for one in (self.users, self.own_tokens, self._issued_tokens):
            if one is not None:
                one.reload()

    def close(self) -> None:
        """End what checks passwords."""
        if self.users is not None:
            self.users.close()
