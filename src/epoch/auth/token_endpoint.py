"""`/v2/token`: credentials in, a token out (the distribution project's "Docker Registry v2
authentication", and its OAuth2 form)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl

from epoch.auth.authenticator import OPERATOR, Authenticator, Rejected
from epoch.auth.challenge import basic
from epoch.auth.credentials import Basic
from epoch.auth.identity import Identity
from epoch.auth.policy import ANONYMOUS, Policy
from epoch.auth.scopes import TooMany, reduced
from epoch.errors import Code, RegistryError
from epoch.http.message import Request, Response

MAX_FORM: Final = 64 * 1024
MAX_FIELDS: Final = 1000
"""Of a form: more than the names of as many repositories as one token can hold."""

OPERATOR_SECONDS: Final = 3600
"""What is told about the registry token, which does not expire."""


class TokenEndpoint:
    """Its handler: GET with Basic, or POST with a form."""

    def __init__(self, who: Authenticator, policy: Callable[[], Policy]) -> None:
        self._who = who
        self._policy = policy

    async def answer(self, request: Request) -> Response:
        """200 with a token that grants what of the asked-for scopes is allowed, maybe nothing;
        UNAUTHORIZED where credentials are shown and wrong; 404 where tokens are not issued; 400
        where more is asked for than a token can hold."""
        tokens = self._who.own_tokens
        if tokens is None:
            raise RegistryError(Code.UNSUPPORTED, "tokens are not issued here", status=404)
        form = _form(await request.body.read(MAX_FORM)) if request.method == "POST" else []
        scopes = request.parameters("scope") + [value for key, value in form if key == "scope"]
        try:
            identity = await self._identify(request, dict(form))
        except Rejected as error:
            raise RegistryError(Code.UNAUTHORIZED, str(error), headers=(basic(),)) from None
        request.user = identity.user
        if identity is OPERATOR:
            return _reply(self._who.registry_token, OPERATOR_SECONDS, int(time.time()))
        user, policy = identity.user, identity.policy
        try:
            grants = reduced(
                scopes,
                lambda action, repository: policy.allows(user, action, repository),
                catalog=policy.lists(user),
            )
            return _reply(*tokens.issue(user, grants))
        except TooMany as error:
            message = f"too many scopes: {error}; ask for fewer at once"
            raise RegistryError(Code.BAD_REQUEST, message) from None

    async def _identify(self, request: Request, form: dict[str, str]) -> Identity:
        if form.get("password"):
            password = form["password"].encode("utf-8", "surrogateescape")
            return await self._who.basic(Basic(form.get("username", ""), password))
        if form.get("refresh_token"):
            # We issue none: it can only be the registry token.
            identity = self._who.bearer(form["refresh_token"])
        else:
            shown = await self._who.identify(request)
            identity = shown or Identity(ANONYMOUS, self._policy())
        if identity.grants is not None:
            # Else a token could be prolonged for ever.
            raise Rejected("a token is not a password")
        return identity


def _form(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise RegistryError(Code.BAD_REQUEST, "malformed form") from None


def _reply(token: str, lifetime: int, issued: int) -> Response:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(issued))
    # Clients look for either of the two names.
    content: dict[str, Any] = {
        "token": token,
        "access_token": token,
        "expires_in": lifetime,
        "issued_at": stamp,
    }
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    return Response(200, headers, json.dumps(content).encode())
