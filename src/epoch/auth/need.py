"""What a request needs its caller to be allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from epoch.auth.identity import Identity
from epoch.auth.scopes import CATALOG, scope_of
from epoch.http.routes import Endpoint, Route
from epoch.oci.names import check_name

Action = Literal["sign in", "list", "pull", "push", "delete"]

_UPLOADS: Final = frozenset({Endpoint.UPLOADS, Endpoint.UPLOAD})


@dataclass(frozen=True, slots=True)
class Need:
    """An action, and the repository that it is done to."""

    action: Action
    """`sign in`: to be anybody that we know; `list`: to see the catalog."""

    repository: str = ""

    @property
    def scope(self) -> str:
        """What a token must be asked for, to meet the need; empty: any token does."""
        if self.action == "list":
            return CATALOG
        return scope_of(self.repository, self.action) if self.repository else ""

    def is_met_by(self, caller: Identity) -> bool:
        """Whether the caller may. Not for `sign in`."""
        if self.action == "list":
            return caller.may_list()
        return caller.may(self.action, self.repository)


def need_of(method: str, route: Route) -> Need:
    """The need of a request. NAME_INVALID: it names no repository."""
    if route.endpoint is Endpoint.PING:
        return Need("sign in")
    if route.endpoint is Endpoint.CATALOG:
        return Need("list")
    name = check_name(route.name)
    if route.endpoint in _UPLOADS:
        # Also to look at an upload, and to give it up: they are the pusher's business.
        return Need("push", name)
    if method in ("GET", "HEAD"):
        return Need("pull", name)
    return Need("delete" if method == "DELETE" else "push", name)
