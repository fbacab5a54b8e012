"""Scopes, credentials and challenges, as clients send and parse them."""

from __future__ import annotations

import base64

import pytest

from epoch.auth.challenge import Challenge
from epoch.auth.credentials import Basic, Bearer, Malformed, parse, same
from epoch.auth.scopes import (
    MAX_REPOSITORIES,
    Grants,
    TooMany,
    grants_of,
    reduced,
    scope_of,
)
from epoch.config import AuthSettings
from epoch.http.body import RequestBody
from epoch.http.message import Request


def everything(action: str, repository: str) -> bool:
    return True


def pull_only(action: str, repository: str) -> bool:
    return action == "pull"


@pytest.mark.parametrize(
    ("scopes", "granted"),
    [
        (["repository:a/b:pull"], {"a/b": {"pull"}}),
        (["repository:a/b:push,pull"], {"a/b": {"pull", "push"}}),
        (["repository:a/b:push"], {"a/b": {"pull", "push"}}),
        (["repository:a/b:*"], {"a/b": {"pull", "push", "delete"}}),
        (["repository:a:pull repository:b:delete"], {"a": {"pull"}, "b": {"delete"}}),
        (["repository:a:pull", "repository:a:delete"], {"a": {"pull", "delete"}}),
        (["repository:a:fly"], {}),
        (["repository:a:"], {}),
        (["repository:A:pull", "repository:a/../b:pull", "repository::pull"], {}),
        (["repository(plugin):a:pull", "x", ":", "", "registry:catalog:*"], {}),
        ([f"repository:a{number}:pull" for number in range(1000)][:1] * 500, {"a0": {"pull"}}),
    ],
)
def test_scopes(scopes: list[str], granted: dict[str, set[str]]) -> None:
    assert reduced(scopes, everything, catalog=False).repositories == granted


def test_many_scopes_are_all_granted_or_refused() -> None:
    scopes = [f"repository:a{number}:pull" for number in range(MAX_REPOSITORIES)]
    for asked in (scopes, scopes * 5, [" ".join(scopes)]):
        assert len(reduced(asked, everything, catalog=False).repositories) == MAX_REPOSITORIES
    with pytest.raises(TooMany, match=str(MAX_REPOSITORIES)):
        reduced([*scopes, "repository:b:pull"], everything, catalog=False)


def test_grants_are_reduced_to_what_is_allowed() -> None:
    asked = ["repository:a:pull,push,delete registry:catalog:*"]
    assert reduced(asked, pull_only, catalog=True) == Grants({"a": frozenset({"pull"})}, True)
    assert reduced(asked, lambda *_: False, catalog=False) == Grants()


def test_a_claim_can_be_read_back() -> None:
    grants = Grants({"a": frozenset({"pull", "delete"})}, catalog=True)
    assert grants_of(grants.claim()) == grants


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (None, None),
        (basic(b"u:p"), Basic("u", b"p")),
        (basic(b"u:p").replace("Basic", "bAsIC"), Basic("u", b"p")),
        (basic(b"u:p:q"), Basic("u", b"p:q")),
        (basic(b":p"), Basic("", b"p")),
        (basic(b":"), None),
        (basic(b"\xff:\xff"), Basic("\udcff", b"\xff")),
        ("Bearer a.b.c", Bearer("a.b.c")),
        ("bearer  a", Bearer("a")),
    ],
)
def test_credentials(field: str | None, shown: Basic | Bearer | None) -> None:
    assert parse(field) == shown


@pytest.mark.parametrize(
    "field",
    ["", "Basic", "Basic ", "Basic !!", "Basic " + "é", basic(b"nocolon"), basic(b"u:p") + "x",
     "Bearer", "Bearer a b", "Bearer\ta", "Digest username=x", "Basic dTpw, Bearer x", "BasicdTpw"],
)  # fmt: skip
def test_malformed_credentials(field: str) -> None:
    with pytest.raises(Malformed):
        parse(field)


def test_no_secret_in_a_repr() -> None:
    assert "s3cret" not in repr(parse("Bearer s3cret")) + repr(parse(basic(b"u:s3cret")))


def test_equality_of_secrets() -> None:
    assert same("é", "é")
    assert same("é".encode(), "é")
    assert not same("", "a")
    assert not same("\udcff", "a")


class _Wire:
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def send_continue(self) -> None: ...

    async def reserve(self, size: int) -> None:
        pass

    def unread(self) -> int:
        return 0


def request(host: str | None, *, secure: bool = False) -> Request:
    headers = {} if host is None else {"host": host}
    body = RequestBody(_Wire(), 0, 0)
    return Request("GET", "/v2/", [], headers, body, "", secure=secure)


async def rendered(
    host: str | None = "epoch.test:5000", *, secure: bool = False, **settings: str
) -> str:
    challenge = Challenge("bearer", AuthSettings(**settings), "epoch")  # type: ignore[arg-type]
    ((name, value),) = challenge.render(request(host, secure=secure), scope_of("a/b", "push"))
    assert name == "WWW-Authenticate"
    return value


async def test_the_challenge_is_what_clients_expect() -> None:
    assert await rendered() == (
        'Bearer realm="http://epoch.test:5000/v2/token",service="epoch",'
        'scope="repository:a/b:pull,push"'
    )
    assert (await rendered(secure=True)).startswith('Bearer realm="https://epoch.test:5000/v2/')
    assert 'realm="https://r.example/x/v2/token"' in await rendered(
        public_url="https://r.example/x"
    )


@pytest.mark.parametrize(
    "host", [None, "", 'a"b', "a/b", "a b", "a\\b", "a@b", "é", "a:b", "[::1", "a:123456", "a\r\nb"]
)
async def test_a_strange_host_is_not_repeated(host: str | None) -> None:
    assert 'realm="/v2/token"' in await rendered(host)


@pytest.mark.parametrize("host", ["a", "a.b-c_d:1", "127.0.0.1:80", "[::1]:5000", "[fe80::1]"])
async def test_hosts(host: str) -> None:
    assert f'realm="http://{host}/v2/token"' in await rendered(host)


async def test_basic_and_problems() -> None:
    plain = Challenge("basic", AuthSettings(), "epoch")
    assert plain.render(request("a"), "") == (
        ("WWW-Authenticate", 'Basic realm="epoch", charset="UTF-8"'),
    )
    token = Challenge("bearer", AuthSettings(), "epoch")
    ((_, value),) = token.render(request("a"), "", "invalid_token")
    assert value.endswith('service="epoch",error="invalid_token"')
