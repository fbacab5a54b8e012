"""The rules: which users may do what in which repositories."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ACTIONS: Final = frozenset({"pull", "push", "delete"})
EVERYBODY: Final = "*"
"""Stands for all users in a rule, and for those who do not sign in."""
AUTHENTICATED: Final = "authenticated"
"""Stands for all users who sign in."""
RESERVED: Final = frozenset({EVERYBODY, AUTHENTICATED})
ANONYMOUS: Final = ""
"""The user who does not sign in."""

_GLOB = re.compile(r"[a-z0-9._*-]+(?:/[a-z0-9._*-]+)*")
_WILDCARD = re.compile(r"\*+")
_ANYTHING: Final = ".*"


@dataclass(frozen=True, slots=True)
class Rule:
    """Grants `actions` to `users` (names, or the reserved ones) where `repositories` matches."""

    users: frozenset[str]
    repositories: re.Pattern[str]
    actions: frozenset[str]

    def is_for(self, user: str) -> bool:
        """Whether the rule speaks of that user."""
        return (
            EVERYBODY in self.users
            or (user in self.users and user != ANONYMOUS)
            or (AUTHENTICATED in self.users and user != ANONYMOUS)
        )

    @property
    def is_everywhere(self) -> bool:
        """Whether one of its patterns is `**`."""
        return _ANYTHING in self.repositories.pattern.split("|")


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules. What none of them grants is not allowed."""

    rules: tuple[Rule, ...]

    def allows(self, user: str, action: str, repository: str) -> bool:
        """Whether `user` (ANONYMOUS: whoever) may pull, push or delete in a repository."""
        return any(
            action in rule.actions
            and rule.is_for(user)
            and rule.repositories.fullmatch(repository) is not None
            for rule in self.rules
        )

    def pulls_everywhere(self, user: str) -> bool:
        """Whether one rule lets `user` pull from all repositories."""
        return any(
            "pull" in rule.actions and rule.is_everywhere and rule.is_for(user)
            for rule in self.rules
        )

    def lists(self, user: str) -> bool:
        """Whether `user` may ask for the catalog; what it shows is what the user may pull."""
        return user != ANONYMOUS or any(rule.is_for(ANONYMOUS) for rule in self.rules)


def glob(pattern: str) -> re.Pattern[str]:
    """`**` matches anything, `*` anything but a slash. ValueError: no repository can match."""
    if _GLOB.fullmatch(pattern) is None:
        raise ValueError(f"{pattern!r} is not a pattern of repository names")
    parts, at = [], 0
    for found in _WILDCARD.finditer(pattern):
        parts += [
            re.escape(pattern[at : found.start()]),
            "[^/]*" if len(found[0]) == 1 else _ANYTHING,
        ]
        at = found.end()
    return re.compile("".join([*parts, re.escape(pattern[at:])]))


def grant(users: str, *actions: str) -> Rule:
    """A rule about all repositories."""
    return Rule(frozenset({users}), glob("**"), frozenset(actions))


OPEN: Final = Policy((grant(EVERYBODY, *ACTIONS),))
"""Everybody may do everything."""

PULL_IS_OPEN: Final = Policy((grant(EVERYBODY, "pull"), grant(AUTHENTICATED, *ACTIONS)))
"""Everybody may pull; whoever signs in may do everything."""

USERS_ONLY: Final = Policy((grant(AUTHENTICATED, *ACTIONS),))
"""Whoever signs in may do everything, and nobody else anything."""


def parse(data: bytes) -> Policy:
    """The policy of a TOML file of `[[rule]]` tables. ValueError: what is wrong, in one line."""
    document = tomllib.loads(data.decode())
    rules = document.pop("rule", [])
    if document:
        raise ValueError(f"{next(iter(document))!r} is unknown here: write [[rule]] tables")
    if not isinstance(rules, list):
        raise ValueError("write [[rule]] in double brackets")
    return Policy(tuple(_rule(table, number) for number, table in enumerate(rules, 1)))


def _rule(table: Any, number: int) -> Rule:
    where = f"rule {number}"
    if not isinstance(table, dict) or table.keys() != {"users", "repositories", "actions"}:
        raise ValueError(f"{where}: needs users, repositories and actions, and nothing else")
    users, patterns, actions = (
        _texts(table, key, where) for key in ("users", "repositories", "actions")
    )
    unknown = set(actions) - ACTIONS
    if unknown:
        raise ValueError(f"{where}: unknown action {min(unknown)!r}: pull, push or delete")
    try:
        joined = "|".join(glob(pattern).pattern for pattern in patterns)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    # Whoever pushes reads back what was pushed; all clients ask for both.
    implied = {"pull"} if "push" in actions else set()
    return Rule(frozenset(users), re.compile(joined), frozenset(actions) | implied)


def _texts(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    found = table[key]
    if not isinstance(found, list) or not found or not all(isinstance(x, str) and x for x in found):
        raise ValueError(f'{where}: {key} must be a list of texts, such as ["a", "b"]')
    return found
