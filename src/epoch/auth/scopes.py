"""Scopes, and the grants that a token carries (the "token scope" and "token" specifications of
the distribution project)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from epoch.auth.policy import ACTIONS
from epoch.oci.names import is_name

MAX_REPOSITORIES: Final = 256
"""That one request for a token may name: a token for more would be too long anyway, and each is
compared with every rule."""

SERVICE: Final = "epoch"
"""Our name: the `iss` and `aud` of our own tokens, and the `service` in our challenges."""

CATALOG: Final = "registry:catalog:*"
"""The scope of the catalog."""


class TooMany(Exception):
    """More is asked for than one token can hold. The text is for the client."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What a token is good for."""

    repositories: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Actions by repository."""

    catalog: bool = False

    def allow(self, action: str, repository: str) -> bool:
        """Whether an action is among them."""
        return action in self.repositories.get(repository, ())

    def claim(self) -> list[dict[str, Any]]:
        """The `access` claim."""
        access: list[dict[str, Any]] = [
            {"type": "repository", "name": name, "actions": sorted(actions)}
            for name, actions in self.repositories.items()
        ]
        if self.catalog:
            access.append({"type": "registry", "name": "catalog", "actions": ["*"]})
        return access


def scope_of(repository: str, action: str) -> str:
    """What a client has to ask for, to do `action`. The name must be one: it is safe to send."""
    actions = "pull,push" if action == "push" else action
    return f"repository:{repository}:{actions}"


def reduced(scopes: Iterable[str], allows: Callable[[str, str], bool], *, catalog: bool) -> Grants:
    """What of the scopes may be granted. Each text may hold several, separated by spaces.

    `allows`: by action and repository. Unknown and malformed scopes grant nothing. `TooMany`: they
    name more than `MAX_REPOSITORIES`; none of them is dropped in silence.
    """
    asked: dict[str, frozenset[str]] = {}
    listed = False
    for scope in (one for text in scopes for one in text.split(" ") if one):
        kind, _, rest = scope.partition(":")
        name, _, words = rest.rpartition(":")
        if kind == "registry" and name == "catalog":
            listed = catalog
        elif kind == "repository" and (name in asked or is_name(name)):
            asked[name] = asked.get(name, frozenset()) | _actions(words.split(","))
            if len(asked) > MAX_REPOSITORIES:
                raise TooMany(f"more than {MAX_REPOSITORIES} repositories")
    granted = {
        name: frozenset(action for action in actions if allows(action, name))
        for name, actions in asked.items()
    }
    return Grants({name: actions for name, actions in granted.items() if actions}, listed)


def grants_of(claim: Any) -> Grants:
    """What an `access` claim grants. What is malformed in it grants nothing."""
    repositories: dict[str, frozenset[str]] = {}
    catalog = False
    for item in claim if isinstance(claim, list) else []:
        if not isinstance(item, dict):
            continue
        kind, name, words = item.get("type"), item.get("name"), item.get("actions")
        if not isinstance(name, str) or not isinstance(words, list):
            continue
        actions = [word for word in words if isinstance(word, str)]
        if kind == "registry" and name == "catalog" and "*" in actions:
            catalog = True
        elif kind == "repository":
            repositories[name] = repositories.get(name, frozenset()) | _actions(actions)
    return Grants(repositories, catalog)


def _actions(words: Sequence[str]) -> frozenset[str]:
    if "*" in words:
        return ACTIONS
    return ACTIONS.intersection([*words, "pull"] if "push" in words else words)
