"""Rules: what they grant, to whom, and what is refused when they are read."""

from __future__ import annotations

import pytest

from epoch.auth.policy import ANONYMOUS, OPEN, PULL_IS_OPEN, USERS_ONLY, glob, parse

RULES = b"""
[[rule]]
users = ["*"]
repositories = ["public/**", "hello"]
actions = ["pull"]

[[rule]]
users = ["alice", "bob"]
repositories = ["team/*"]
actions = ["push"]

[[rule]]
users = ["authenticated"]
repositories = ["shared"]
actions = ["delete"]
"""


@pytest.mark.parametrize(
    ("user", "action", "repository", "allowed"),
    [
        (ANONYMOUS, "pull", "public/x", True),
        (ANONYMOUS, "pull", "public/x/y", True),
        (ANONYMOUS, "pull", "hello", True),
        (ANONYMOUS, "pull", "public", False),
        (ANONYMOUS, "pull", "publicx/y", False),
        (ANONYMOUS, "pull", "x/public/y", False),
        (ANONYMOUS, "pull", "hello/x", False),
        (ANONYMOUS, "push", "public/x", False),
        ("carol", "pull", "public/x", True),
        ("alice", "push", "team/x", True),
        ("alice", "pull", "team/x", True),
        ("alice", "delete", "team/x", False),
        ("alice", "push", "team/x/y", False),
        ("carol", "push", "team/x", False),
        ("carol", "pull", "team/x", False),
        (ANONYMOUS, "pull", "team/x", False),
        ("carol", "delete", "shared", True),
        ("carol", "pull", "shared", False),
        (ANONYMOUS, "delete", "shared", False),
        ("*", "push", "team/x", False),
        ("authenticated", "push", "team/x", False),
    ],
)
def test_rules(user: str, action: str, repository: str, *, allowed: bool) -> None:
    assert parse(RULES).allows(user, action, repository) is allowed


def test_a_file_without_rules_allows_nothing() -> None:
    assert not parse(b"").allows("alice", "pull", "a")
    assert not parse(b"").lists(ANONYMOUS)


def test_who_may_list() -> None:
    assert parse(RULES).lists(ANONYMOUS)
    assert parse(RULES).lists("carol")
    assert not USERS_ONLY.lists(ANONYMOUS)


def test_what_holds_without_rules() -> None:
    assert OPEN.allows(ANONYMOUS, "delete", "a")
    assert PULL_IS_OPEN.allows(ANONYMOUS, "pull", "a")
    assert not PULL_IS_OPEN.allows(ANONYMOUS, "push", "a")
    assert PULL_IS_OPEN.allows("x", "push", "a")
    assert not USERS_ONLY.allows(ANONYMOUS, "pull", "a")
    assert USERS_ONLY.allows("x", "delete", "a/b")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "a", True),
        ("*", "a/b", False),
        ("**", "a/b/c", True),
        ("a-*", "a-b", True),
        ("a-*", "a-b/c", False),
        ("**/x", "a/b/x", True),
        ("**/x", "x", False),
        ("a.b", "axb", False),
        ("a.b", "a.b", True),
        ("a", "a\n", False),
    ],
)
def test_patterns(pattern: str, name: str, *, matches: bool) -> None:
    assert (glob(pattern).fullmatch(name) is not None) is matches


RULE = '[[rule]]\nusers = ["a"]\nrepositories = ["b"]\nactions = ["pull"]\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rule = 1", "double brackets"),
        ("[rule]\n", "double brackets"),
        ("rules = []", "'rules'"),
        ("[[rule]]\nusers = ['a']", "rule 1: needs"),
        (RULE + RULE + "extra = 1", "rule 2: needs"),
        (RULE.replace('"pull"', '"read"'), "'read'"),
        (RULE.replace('["a"]', '"a"'), "users must be a list"),
        (RULE.replace('["a"]', "[]"), "users must be a list"),
        (RULE.replace('["a"]', '[""]'), "users must be a list"),
        (RULE.replace('["b"]', '["B"]'), "'B'"),
        (RULE.replace('["b"]', '["b/"]'), "'b/'"),
        (RULE.replace('["b"]', '["/b"]'), "'/b'"),
        ("[[rule", "Expected"),
        ("\xff", "utf-8"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(text.encode("latin-1"))


def test_who_pulls_everywhere() -> None:
    def rules(*patterns: str, action: str = "pull") -> bool:
        text = f"[[rule]]\nusers=['alice']\nrepositories={list(patterns)}\nactions=['{action}']"
        policy = parse(text.encode())
        assert not policy.pulls_everywhere("bob")
        assert not policy.pulls_everywhere(ANONYMOUS)
        return policy.pulls_everywhere("alice")

    assert rules("**")
    assert rules("team/*", "**", action="push")
    assert not rules("**", action="delete")
    assert not rules("*", "*/**", "**/x")
    assert OPEN.pulls_everywhere(ANONYMOUS)
    assert PULL_IS_OPEN.pulls_everywhere(ANONYMOUS)
    assert USERS_ONLY.pulls_everywhere("alice")
    assert not USERS_ONLY.pulls_everywhere(ANONYMOUS)
    assert not parse(b"").pulls_everywhere("alice")
