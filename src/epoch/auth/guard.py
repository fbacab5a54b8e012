"""The decision on each request, before its body is read."""

from __future__ import annotations

from typing import Final

from epoch import log
from epoch.auth import policy as policies
from epoch.auth.authenticator import Authenticator, Rejected
from epoch.auth.challenge import Challenge, Kind, Problem
from epoch.auth.identity import Identity
from epoch.auth.need import Need, need_of
from epoch.auth.policy import ANONYMOUS, Policy
from epoch.auth.scopes import SERVICE
from epoch.auth.token_endpoint import TokenEndpoint
from epoch.auth.watched import Watched
from epoch.config import AuthSettings
from epoch.errors import Code, RegistryError
from epoch.http.message import Request, Response
from epoch.http.routes import Endpoint, Route

_OPEN: Final = frozenset({Endpoint.HEALTH, Endpoint.READY, Endpoint.METRICS, Endpoint.TOKEN})
"""Endpoints that everybody may reach; that for tokens looks at credentials itself."""


class Guard:
    """Access control, made of what the settings name.

    `SettingsError`: a file that they name cannot be read.
    """

    def __init__(self, settings: AuthSettings) -> None:
        self._rules = Watched(settings.access, policies.parse) if settings.access else None
        self._default = _default(settings)
        self.limits_pulls: Final = bool(settings.access or settings.token_issuer)
        """Whether there can be callers who may pull from some repositories and not from others."""
        self._who = Authenticator(settings, self._policy)
        service = settings.token_audience or SERVICE
        self._challenge = Challenge(_kind(settings), settings, service)
        self._tokens = TokenEndpoint(self._who, self._policy)

    async def authorize(self, request: Request, route: Route) -> None:
        """Let a request pass and set its caller; or raise UNAUTHORIZED (401) or DENIED (403).

        Also NAME_INVALID, and TOOMANYREQUESTS where too many passwords wait to be checked.
        """
        if route.endpoint in _OPEN:
            return
        need = need_of(request.method, route)
        anonymous = Identity(ANONYMOUS, self._policy())
        if need.action == "pull" and need.is_met_by(anonymous):
            # What is open to everybody needs no credentials, and wrong ones do not close it.
            request.caller = anonymous
            return
        shown, rejected = None, None
        try:
            shown = await self._who.identify(request)
        except Rejected as error:
            rejected = error
        caller = shown or anonymous
        request.user = caller.user
        if need.action == "sign in":
            # Docker learns here, and only here, that it may sign in: so also where pulls are open.
            passed = shown is not None or self._challenge.kind == "none"
        else:
            passed = need.is_met_by(caller)
        if not passed:
            raise self._refusal(request, need, caller, rejected)
        # A catalog shows what the user may pull, be it with other tokens than this one.
        request.caller = caller.unlimited() if need.action == "list" else caller

    async def token(self, request: Request) -> Response:
        """The handler of the token endpoint."""
        return await self._tokens.answer(request)

    def announce(self) -> None:
        """Tell the log at start who may do what."""
        if self._rules is None and self._default is policies.OPEN:
            log.warn(
                "ACCESS IS OPEN: whoever reaches this server can push, overwrite and delete; set "
                "EPOCH_REGISTRY_TOKEN, --htpasswd or --access"
            )
            return
        open_to_all = self._default is policies.PULL_IS_OPEN
        anonymous = "rules" if self._rules is not None else "pull" if open_to_all else "nothing"
        log.info("access is controlled", challenge=self._challenge.kind, anonymous=anonymous)

    def reload(self) -> None:
        """Read the files with rules, users and keys now."""
        if self._rules is not None:
            self._rules.reload()
        self._who.reload()

    def close(self) -> None:
        """Stop what runs beside the requests."""
        self._who.close()

    def _policy(self) -> Policy:
        """What holds now."""
        return self._default if self._rules is None else self._rules.current()

    def _refusal(
        self, request: Request, need: Need, caller: Identity, rejected: Rejected | None
    ) -> RegistryError:
        """401 where other credentials could help, else 403."""
        if self._challenge.kind == "none":
            return RegistryError(Code.DENIED)
        if caller.grants is not None and need.is_met_by(caller.unlimited()):
            message = "the token was not issued for this"
            headers = self._challenge.render(request, need.scope, "insufficient_scope")
        elif caller.user == ANONYMOUS:
            message = str(rejected) if rejected else Code.UNAUTHORIZED.message
            problem: Problem = "invalid_token" if rejected and rejected.token else ""
            headers = self._challenge.render(request, need.scope, problem)
        else:
            return RegistryError(Code.DENIED)
        return RegistryError(Code.UNAUTHORIZED, message, headers=headers)


def _default(settings: AuthSettings) -> Policy:
    """What holds where there are no rules."""
    if settings.htpasswd or settings.token_issuer:
        return policies.USERS_ONLY
    return policies.PULL_IS_OPEN if settings.registry_token else policies.OPEN


def _kind(settings: AuthSettings) -> Kind:
    if settings.token_issuer or settings.token_key or settings.registry_token:
        return "bearer"
    return "basic" if settings.htpasswd else "none"
