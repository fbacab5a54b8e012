"""Files that are read again: new ones hold at once, broken ones change nothing; logged once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from epoch.auth import watched
from epoch.auth.htpasswd import parse as parse_users
from epoch.auth.policy import parse as parse_rules
from epoch.auth.scopes import Grants
from epoch.auth.tokens import InvalidToken, issued_tokens, own_tokens
from epoch.auth.watched import Watched
from epoch.config import AuthSettings, SettingsError


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"good")
    return path


def parse(data: bytes) -> bytes:
    if data.startswith(b"bad"):
        raise ValueError(f"line 1 is {data.decode()}")
    return data


def replace(path: Path, content: bytes) -> None:
    """As an editor or a mounted secret does it."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_a_new_version_holds_at_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "epoch")
    one = Watched(file, parse)
    replace(file, b"better")
    assert one.current() == b"better"
    assert one.current() == b"better"
    assert lines(caplog) == [f"settings read again file={file}"]


def test_a_version_that_cannot_be_parsed_is_logged_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "epoch")
    one = Watched(file, parse)
    for version in (b"bad", b"bad, too"):
        replace(file, version)
        assert [one.current() for _ in range(5)] == [b"good"] * 5
        (line,) = lines(caplog)
        assert f"line 1 is {version.decode()}" in line
    replace(file, b"better")
    assert one.current() == b"better"
    assert lines(caplog) == [f"settings read again file={file}"]


def test_a_file_that_cannot_be_read_is_logged_once_and_read_when_it_can(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "epoch")
    one = Watched(file, parse)
    file.unlink()
    assert [one.current() for _ in range(5)] == [b"good"] * 5
    (line,) = lines(caplog)
    assert "No such file" in line
    file.mkdir()  # can be looked at, but not read
    assert [one.current() for _ in range(5)] == [b"good"] * 5
    (line,) = lines(caplog)
    assert "Is a directory" in line
    file.rmdir()
    file.write_bytes(b"better")
    assert one.current() == b"better"
    assert lines(caplog) == [f"settings read again file={file}"]
    file.unlink()
    one.current()
    (line,) = lines(caplog)
    assert "No such file" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_whose_mode_was_mended_is_read(file: Path) -> None:
    one = Watched(file, parse)
    replace(file, b"better")
    file.chmod(0)
    assert one.current() == b"good"
    file.chmod(0o600)
    assert one.current() == b"better"


def test_reload_reads_what_looks_unchanged(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 3600.0)
    one = Watched(file, parse)
    replace(file, b"better")
    assert one.current() == b"good"
    one.reload()
    assert one.current() == b"better"
    replace(file, b"bad")
    for _ in range(2):
        one.reload()
        assert one.current() == b"better"
        assert any("line 1 is bad" in line for line in lines(caplog))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"a = " + b"[" * 100_000])
@pytest.mark.parametrize("parser", [parse_rules, parse_users])
def test_no_content_is_an_error_of_a_request(
    file: Path, content: bytes, parser: Callable[[bytes], object]
) -> None:
    file.write_bytes(b"")
    one: Watched[object] = Watched(file, parser)
    before = one.current()
    file.write_bytes(content)
    assert one.current() == before
    with pytest.raises(SettingsError):
        Watched(file, parser)


def jwks(keys: dict[str, ed25519.Ed25519PrivateKey]) -> bytes:
    items = [
        {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())), "kid": kid}
        for kid, key in keys.items()
    ]
    return json.dumps({"keys": items}).encode()


def test_keys_of_an_issuer_are_rotated(file: Path) -> None:
    first, second = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    claims = {"iss": "them", "aud": "us", "exp": time.time() + 60, "sub": "me"}
    old, new = (
        jwt.encode(claims, key, "EdDSA", headers={"kid": kid})
        for kid, key in (("1", first), ("2", second))
    )
    file.write_bytes(jwks({"1": first}))
    tokens = issued_tokens(
        AuthSettings(
            token_issuer="them", token_audience="us", token_jwks=file, token_realm="http://them"
        )
    )
    assert tokens.verify(old).subject == "me"
    with pytest.raises(InvalidToken):
        tokens.verify(new)
    replace(file, jwks({"1": first, "2": second}))
    assert tokens.verify(old).subject == tokens.verify(new).subject == "me"
    for broken in (b"", b"{", jwks({})):
        replace(file, broken)
        assert tokens.verify(old).subject == tokens.verify(new).subject == "me"
    replace(file, jwks({"2": second}))
    assert tokens.verify(new).subject == "me"
    with pytest.raises(InvalidToken):
        tokens.verify(old)


def test_our_own_key_is_replaced(file: Path) -> None:
    file.write_bytes(b"k" * 32)
    tokens = own_tokens(AuthSettings(registry_token="t", token_key=file))
    assert tokens is not None
    old, _, _ = tokens.issue("alice", Grants())
    replace(file, b"too short")
    assert tokens.verify(old).subject == "alice"
    replace(file, b"j" * 32)
    with pytest.raises(InvalidToken):
        tokens.verify(old)
    assert tokens.verify(tokens.issue("alice", Grants())[0]).subject == "alice"
