"""The WWW-Authenticate of a 401, as the clients parse it."""

from __future__ import annotations

import re
from typing import Final, Literal

from epoch.config import AuthSettings
from epoch.http.message import Request
from epoch.http.routes import Endpoint

_HOST: Final = re.compile(r"(?:[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_TOKEN_PATH: Final = Endpoint.TOKEN.value

Problem = Literal["", "invalid_token", "insufficient_scope"]
"""Why a token that was shown does not do (RFC 6750, section 3.1); empty: none was."""

Kind = Literal["bearer", "basic", "none"]


class Challenge:
    """Tells a client how to sign in."""

    def __init__(self, kind: Kind, settings: AuthSettings, service: str) -> None:
        """`none`: there is no way to sign in."""
        self.kind: Final = kind
        self._realm = settings.token_realm
        self._public_url = settings.public_url
        self._service = service

    def render(
        self, request: Request, scope: str, problem: Problem = ""
    ) -> tuple[tuple[str, str], ...]:
        """The header field. `scope` (empty: none) must hold safe bytes only."""
        if self.kind == "basic":
            return (basic(),)
        fields = [f'realm="{self._realm_for(request)}"', f'service="{self._service}"']
        if scope:
            fields.append(f'scope="{scope}"')
        if problem:
            fields.append(f'error="{problem}"')
        return (("WWW-Authenticate", "Bearer " + ",".join(fields)),)

    def _realm_for(self, request: Request) -> str:
        if self._realm:
            return self._realm
        if self._public_url:
            return self._public_url + _TOKEN_PATH
        host = request.headers.get("host", "")
        # What a client sends in Host comes back to it, and to nobody else.
        if _HOST.fullmatch(host) is None:
            return _TOKEN_PATH
        return f"{'https' if request.secure else 'http'}://{host}{_TOKEN_PATH}"


def basic() -> tuple[str, str]:
    """The field that asks for user and password."""
    return "WWW-Authenticate", 'Basic realm="epoch", charset="UTF-8"'
