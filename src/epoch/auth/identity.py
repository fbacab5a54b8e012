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

    is_foreign: bool = False
    """Whether another service issued the token: then nothing else says what the user may."""

    def may(self, action: str, repository: str) -> bool:
        """See `epoch.http.message.Caller`."""
        if self.grants is not None and not self.grants.allow(action, repository):
            return False
        return self.policy.allows(self.user, action, repository)

    @property
    def sees_all(self) -> bool:
        """See `epoch.http.message.Caller`. Our own tokens do not restrict this: the same user could
        obtain a token for any repository."""
        return not self.is_foreign and self.policy.pulls_everywhere(self.user)

    def may_list(self) -> bool:
        """Whether the catalog may be asked for."""
        if self.grants is not None and not self.grants.catalog:
            return False
        return self.policy.lists(self.user)

    def unlimited(self) -> Identity:
        """The user itself, without the limits of the token."""
        return replace(self, grants=None)
