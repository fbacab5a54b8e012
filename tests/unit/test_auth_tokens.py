"""Tokens: each that must not be trusted is refused, quickly, and the good ones are taken."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from epoch.auth.issuer_keys import parse
from epoch.auth.scopes import Grants, TooMany
from epoch.auth.tokens import (
    MAX_BYTES,
    InvalidToken,
    IssuedTokens,
    OwnTokens,
    derived,
    issued_tokens,
    own_tokens,
)
from epoch.auth.watched import Fixed
from epoch.config import AuthSettings, SettingsError

ISSUER, AUDIENCE = "https://auth.example.com", "registry.example.com"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(65537, 2048)


def jwk(key: Any, kid: str, algorithm: Any) -> dict[str, Any]:
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid}


def rsa_jwk(key: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    return jwk(key, kid, jwt.algorithms.RSAAlgorithm)


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


@pytest.fixture
def issued() -> IssuedTokens:
    keys = [
        rsa_jwk(RSA, "rsa"),
        jwk(EC, "ec", jwt.algorithms.ECAlgorithm),
        jwk(ED, "ed", jwt.algorithms.OKPAlgorithm),
    ]
    return IssuedTokens(ISSUER, AUDIENCE, Fixed(parse(json.dumps({"keys": keys}).encode())))


def claims(**changed: Any) -> dict[str, Any]:
    """Good claims, but for those that are changed; `...` leaves one out."""
    now = int(time.time())
    access = [{"type": "repository", "name": "a/b", "actions": ["push"]}]
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "me", "exp": now + 300, "iat": now, "nbf": now}
    return {k: v for k, v in {**good, "access": access, **changed}.items() if v is not ...}


def signed_with(secret: bytes) -> OwnTokens:
    return OwnTokens(Fixed(derived(secret)))


def signed(content: dict[str, Any], key: Any = RSA, algorithm: str = "RS256", **head: Any) -> str:
    return jwt.encode(content, key, algorithm, headers={"kid": "rsa", **head})


def part(data: bytes | dict[str, Any]) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw(head: bytes | dict[str, Any], content: bytes | dict[str, Any]) -> str:
    """A token of any content at all, rightly signed by the RSA key."""
    text = f"{part(head)}.{part(content)}"
    signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(
        text.encode(), RSA
    )
    return f"{text}.{part(signature)}"


RS = {"alg": "RS256", "kid": "rsa"}


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA, "RS256", "rsa"), (RSA, "PS512", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")],
)
def test_good_tokens_are_taken(issued: IssuedTokens, key: Any, algorithm: str, kid: str) -> None:
    token = issued.verify(signed(claims(), key, algorithm, kid=kid))
    assert token.subject == "me"
    assert token.grants.repositories == {"a/b": {"pull", "push"}}


@pytest.mark.parametrize(
    "changed",
    [
        lambda now: {"exp": int(now) - 30},
        lambda now: {"nbf": int(now) + 30},
        lambda now: {"iat": int(now) + 30},
        lambda now: {"exp": now + 300.5},
        lambda _: {"aud": ["other", AUDIENCE]},
        lambda _: {"nbf": ..., "iat": ...},
    ],
)
def test_clocks_may_be_apart_by_a_minute(
    issued: IssuedTokens, changed: Callable[[float], dict[str, Any]]
) -> None:
    issued.verify(signed(claims(**changed(time.time()))))


def hs256_with_public_key() -> str:
    """The confusion of a public RSA key with a secret."""
    text = f"{part({'alg': 'HS256', 'kid': 'rsa'})}.{part(claims())}"
    return f"{text}.{part(hmac.digest(public_pem(RSA), text.encode(), hashlib.sha256))}"


BAD = {
    "expired": lambda: signed(claims(exp=int(time.time()) - 61)),
    "not yet": lambda: signed(claims(nbf=int(time.time()) + 62)),
    "issued in the future": lambda: signed(claims(iat=int(time.time()) + 62)),
    "exp is a text": lambda: signed(claims(exp=str(int(time.time()) + 300))),
    "nbf is a text": lambda: signed(claims(nbf=str(int(time.time())))),
    "iat is a text": lambda: signed(claims(iat=str(int(time.time())))),
    "exp is true": lambda: signed(claims(exp=True)),
    "exp is null": lambda: signed(claims(exp=None)),
    "exp is a list": lambda: signed(claims(exp=[1])),
    "exp is not a number": lambda: raw(RS, json.dumps(claims(exp=float("nan"))).encode()),
    "exp is infinite": lambda: raw(RS, json.dumps(claims(exp=float("inf"))).encode()),
    "exp is missing": lambda: signed(claims(exp=...)),
    "iss is wrong": lambda: signed(claims(iss="https://evil.example.com")),
    "iss is missing": lambda: signed(claims(iss=...)),
    "aud is wrong": lambda: signed(claims(aud="other")),
    "aud is missing": lambda: signed(claims(aud=...)),
    "sub is a number": lambda: raw(RS, claims(sub=7)),
    "none": lambda: raw({"alg": "none", "kid": "rsa"}, claims()).rpartition(".")[0] + ".",
    "None": lambda: raw({"alg": "None", "kid": "rsa"}, claims()),
    "no alg": lambda: raw({"kid": "rsa"}, claims()),
    "hs256 with the public key": hs256_with_public_key,
    "alg of another key": lambda: raw({"alg": "ES256", "kid": "rsa"}, claims()),
    "kid of another key": lambda: raw({"alg": "RS256", "kid": "ec"}, claims()),
    "unknown kid": lambda: signed(claims(), kid="nobody"),
    "no kid": lambda: raw({"alg": "RS256"}, claims()),
    "kid is a list": lambda: raw({"alg": "RS256", "kid": ["rsa"]}, claims()),
    "a stranger's key": lambda: signed(claims(), STRANGER),
    "embedded jwk": lambda: signed(claims(), STRANGER, jwk=rsa_jwk(STRANGER, "rsa")),
    "jku": lambda: signed(claims(), STRANGER, jku="http://127.0.0.1:1/jwks.json"),
    "x5c": lambda: signed(claims(), STRANGER, x5c=["MIIB"]),
    "crit": lambda: raw({**RS, "crit": ["x"], "x": 1}, claims()),
    "signature cut": lambda: signed(claims())[:-4],
    "no signature": lambda: signed(claims()).rpartition(".")[0] + ".",
    "dots": lambda: "." * 1_000_000,
    "many parts": lambda: signed(claims()) + ".x" * 100,
    "two parts": lambda: "a.b",
    "empty": lambda: "",
    "huge": lambda: signed(claims(pad="x" * 20_000)),
    "deep head": lambda: f"{part(b'[' * 8000)}.{part(claims())}.x",
    "deep content": lambda: raw(RS, b"[" * 8000),
    "long number": lambda: raw(RS, b'{"exp":' + b"9" * 8000 + b"}"),
    "not JSON": lambda: raw(RS, b"\xff\xfe"),
    "a list": lambda: raw(RS, b"[]"),
    "not base64": lambda: "!.!.!",
    "not ascii": lambda: "é.é.é",
}


@pytest.mark.timed
@pytest.mark.parametrize("name", BAD)
def test_bad_tokens_are_refused(issued: IssuedTokens, name: str) -> None:
    text: str = BAD[name]()  # type: ignore[no-untyped-call]
    fastest = 1.0
    for _ in range(3):
        started = time.perf_counter()
        with pytest.raises(InvalidToken):
            issued.verify(text)
        fastest = min(fastest, time.perf_counter() - started)
    assert fastest < 0.005


@pytest.mark.parametrize(
    "access",
    [None, {}, "x", [1], [{}], [{"type": "repository", "name": 1, "actions": ["pull"]}],
     [{"type": "repository", "name": "a", "actions": "pull"}],
     [{"type": "plugin", "name": "a", "actions": ["pull"]}],
     [{"type": "registry", "name": "other", "actions": ["*"]}]],
)  # fmt: skip
def test_a_malformed_grant_grants_nothing(issued: IssuedTokens, access: Any) -> None:
    grants = issued.verify(signed(claims(access=access))).grants
    assert not any(grants.repositories.values())
    assert not grants.catalog


def test_own_tokens_come_back() -> None:
    grants = Grants({"a/b": frozenset({"pull", "push"})}, catalog=True)
    text, lifetime, issued_at = signed_with(b"k" * 32).issue("alice", grants)
    token = signed_with(b"k" * 32).verify(text)
    assert (token.subject, token.grants) == ("alice", grants)
    assert lifetime >= 60
    assert abs(issued_at - time.time()) < 5
    with pytest.raises(InvalidToken):
        signed_with(b"j" * 32).verify(text)


ACTIONS = frozenset({"pull", "push", "delete"})


def test_what_is_issued_is_accepted() -> None:
    """Of any size up to the limit; above it nothing is issued."""
    tokens = signed_with(b"k" * 32)
    for length, count in ((60, 100), (60, 140), (255, 50), (3, 250)):
        names = [f"{number:03}".ljust(length, "a") for number in range(count)]
        grants = Grants(dict.fromkeys(names, ACTIONS))
        text, _, _ = tokens.issue("alice", grants)
        assert len(text) <= MAX_BYTES
        assert tokens.verify(text).grants == grants
    with pytest.raises(TooMany, match=str(MAX_BYTES)):
        tokens.issue("alice", Grants({f"{n:0200}": ACTIONS for n in range(100)}))


def test_own_tokens_are_not_signed_with_the_secret_itself() -> None:
    now = int(time.time())
    forged = jwt.encode({"iss": "epoch", "aud": "epoch", "exp": now + 60}, b"k" * 32, "HS256")
    with pytest.raises(InvalidToken):
        signed_with(b"k" * 32).verify(forged)


def test_replicas_with_the_same_registry_token_take_each_others_tokens() -> None:
    first, second, third = (
        own_tokens(AuthSettings(registry_token=token)) for token in ("one", "one", "two")
    )
    assert first is not None
    assert second is not None
    assert third is not None
    text, _, _ = first.issue("", Grants())
    assert second.verify(text).subject == ""
    with pytest.raises(InvalidToken):
        third.verify(text)


def test_a_short_token_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short\n")
    with pytest.raises(SettingsError, match="openssl rand"):
        own_tokens(AuthSettings(registry_token="t", token_key=tmp_path / "key"))
    with pytest.raises(SettingsError, match="No such file"):
        own_tokens(AuthSettings(registry_token="t", token_key=tmp_path / "nothing"))


def test_a_token_key_may_be_any_bytes(tmp_path: Path) -> None:
    key = b"\n" + b"k" * 30 + b" "
    (tmp_path / "key").write_bytes(key)
    tokens = own_tokens(AuthSettings(registry_token="t", token_key=tmp_path / "key"))
    assert tokens is not None
    assert signed_with(key).verify(tokens.issue("alice", Grants())[0]).subject == "alice"


def private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def test_one_key_in_pem_needs_no_kid() -> None:
    tokens = IssuedTokens(ISSUER, AUDIENCE, Fixed(parse(public_pem(EC))))
    tokens.verify(signed(claims(), EC, "ES256"))
    with pytest.raises(InvalidToken):
        tokens.verify(signed(claims(), RSA, "RS256"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no use"),
        (b"{}", "Key Set"),
        (b'{"keys": []}', "no key"),
        (b'{"keys": [1]}', "not a key"),
        (b"[" * 100_000, "no use"),
        (json.dumps({"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}).encode(), "symmetric"),
        (json.dumps({"keys": [{**rsa_jwk(RSA, "a"), "kid": ""}]}).encode(), "no kid"),
        (json.dumps({"keys": [rsa_jwk(RSA, "a"), rsa_jwk(RSA, "a")]}).encode(), "same kid"),
        (json.dumps({"keys": [{**rsa_jwk(RSA, "a"), "alg": "HS256"}]}).encode(), "HS256"),
        (json.dumps({"keys": [{**rsa_jwk(RSA, "a"), "d": "AA"}]}).encode(), "private"),
        (public_pem(RSA) + public_pem(EC), "one key"),
        (private_pem(RSA), "private"),
        (public_pem(rsa.generate_private_key(65537, 1024)), "2048"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), "neither"),
    ],
)
def test_keys_of_no_use_are_refused(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(content)
    settings = AuthSettings(
        token_issuer=ISSUER,
        token_audience=AUDIENCE,
        token_jwks=tmp_path / "keys",
        token_realm="https://auth.example.com/token",
    )
    with pytest.raises(SettingsError, match=told) as caught:
        issued_tokens(settings)
    assert "\n" not in str(caught.value)
