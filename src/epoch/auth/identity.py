"""Who sent a request, once that is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

from epoch.auth.policy import Policy
from epoch.auth.scopes import Grants


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and the rules that hold for it; a token limits both to what it was issued for."""

    user: str
    """`policy.ANONYMOUS`, or a name."""

    policy: Policy
    grants: Grants | None = None
    """What the token is good for; None where no token limits anything."""

    def may(self, action: str, repository: str) -> bool:
        """See `epoch.http.message.Caller`."""
        if self.grants is not None and not self.grants.allow(action, repository):
            return False
        return self.policy.allows(self.user, action, repository)

    def may_list(self) -> bool:
        """Whether the catalog may be asked for."""
        if self.grants is not None and not self.grants.catalog:
            return False
        return self.policy.lists(self.user)

    def unlimited(self) -> Identity:
        """The user itself, without the limits of the token."""
        return replace(self, grants=None)
