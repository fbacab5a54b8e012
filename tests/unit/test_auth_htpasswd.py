"""Users: who is let in, what it costs, and what the file may hold."""
# ruff: noqa: ASYNC240 - the file is small and local

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import bcrypt
import pytest

from epoch.auth import htpasswd, watched
from epoch.auth.htpasswd import Users, parse
from epoch.config import SettingsError
from epoch.errors import Code, RegistryError


def line(user: str, password: bytes, cost: int = 4) -> str:
    # Always the same salt, so that the tests' names are the same in each of several processes.
    salt = f"$2b${cost:02}$abcdefghijklmnopqrstuu".encode()
    return f"{user}:{bcrypt.hashpw(password, salt).decode()}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(
        "# people\n\n" + line("alice", b"wonder") + line("b\u00f6b", "gr\u00fcn".encode())
    )
    return path


@pytest.fixture
async def users(file: Path) -> AsyncIterator[Users]:
    users = Users(file)
    yield users
    users.close()


@pytest.mark.parametrize(
    ("user", "password", "right"),
    [
        ("alice", b"wonder", True),
        ("b\u00f6b", "gr\u00fcn".encode(), True),
        ("alice", b"Wonder", False),
        ("alice", b"", False),
        ("alice", b"wonder\0", False),
        ("Alice", b"wonder", False),
        ("carol", b"wonder", False),
        ("", b"", False),
    ],
)
async def test_passwords(users: Users, user: str, password: bytes, *, right: bool) -> None:
    for _ in range(2):  # also from memory
        assert await users.verify(user, password) is right


async def test_what_bcrypt_does_not_look_at(file: Path) -> None:
    file.write_text(line("long", b"x" * 72))
    users = Users(file)
    assert await users.verify("long", b"x" * 100)
    assert not await users.verify("long", b"x" * 71)
    users.close()


async def test_a_changed_file_is_read_again(
    users: Users, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0)
    assert await users.verify("alice", b"wonder")
    file.write_text(line("alice", b"changed") + line("carol", b"new"))
    assert not await users.verify("alice", b"wonder")
    assert await users.verify("alice", b"changed")
    assert await users.verify("carol", b"new")
    file.write_text("alice:plain\n")
    assert await users.verify("carol", b"new")
    file.unlink()
    assert await users.verify("carol", b"new")
    file.write_text(line("dave", b"late"))
    assert await users.verify("dave", b"late")
    assert not await users.verify("carol", b"new")


async def test_the_loop_goes_on_while_passwords_are_checked(file: Path) -> None:
    file.write_text(line("alice", b"wonder", 12))
    users = Users(file)
    checks = asyncio.gather(*(users.verify("alice", b"%d" % number) for number in range(4)))
    longest, last = 0.0, time.perf_counter()
    while not checks.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    assert not any(await checks)
    started = time.perf_counter()
    assert not await users.verify("alice", b"x")
    assert longest < (time.perf_counter() - started) / 2
    users.close()


async def test_too_many_guesses_at_once_are_turned_away(
    users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(htpasswd, "MAX_WAITING", 3)
    guesses = await asyncio.gather(
        *(users.verify("alice", b"%d" % number) for number in range(10)), return_exceptions=True
    )
    turned = [guess for guess in guesses if isinstance(guess, RegistryError)]
    assert len(turned) == 7
    assert {error.code for error in turned} == {Code.TOOMANYREQUESTS}
    assert await users.verify("alice", b"wonder")


async def test_a_user_who_is_not_there_costs_the_same(file: Path) -> None:
    file.write_text(line("alice", b"wonder", 10))
    users = Users(file)
    seconds = {"alice": 1.0, "nobody": 1.0}
    for number in range(8):
        for user in seconds:
            started = time.process_time()  # not the clock's: the machine may be busy
            await users.verify(user, b"%d" % number)
            seconds[user] = min(seconds[user], time.process_time() - started)
    assert seconds["nobody"] == pytest.approx(seconds["alice"], rel=0.1)
    users.close()


async def test_what_was_right_is_remembered_and_does_not_pile_up(
    users: Users, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(htpasswd, "MAX_REMEMBERED", 1)
    assert await users.verify("alice", b"wonder")
    assert await users.verify("b\u00f6b", "gr\u00fcn".encode())
    assert not await users.verify("alice", b"wrong")
    assert len(users._right) == 1
    assert b"wonder" not in repr(users._right).encode()


@pytest.mark.parametrize(
    "text",
    [
        "alice",
        "alice:",
        ":" + line("", b"x")[1:],
        "alice:wonder",
        "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "alice:$apr1$x$y",
        line("alice", b"x")[:-2],
        line("alice", b"x").replace("$04$", "$99$"),
        line("*", b"x"),
        line("authenticated", b"x"),
        line("alice", b"x") + line("alice", b"y"),
    ],
)
def test_entries_of_no_use_are_told_by_line_only(text: str) -> None:
    with pytest.raises(ValueError, match=r"^line \d") as caught:
        parse(text.encode())
    assert "$" not in str(caught.value)
    assert "wonder" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing: No such file"):
        Users(tmp_path / "nothing")
    os.mkdir(tmp_path / "dir")
    with pytest.raises(SettingsError, match="dir: Is a directory"):
        Users(tmp_path / "dir")
