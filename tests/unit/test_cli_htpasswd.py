"""`epoch htpasswd`: what it writes is what `epoch serve` reads."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest

from epoch.auth.htpasswd import COST, parse, with_user

COMMAND = [sys.executable, "-m", "epoch", "htpasswd"]


def run(
    file: Path, user: str, password: str, *, code: int = 0
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [*COMMAND, "--stdin", str(file), user],
        input=password.encode(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == b""
    return done


def has(file: Path, user: str, password: str) -> bool:
    return bcrypt.checkpw(password.encode(), parse(file.read_bytes())[user])


def test_a_new_file_is_its_owners(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    assert run(file, "alice", "w\u00f6nder\r\nignored\n").stderr == b""
    assert has(file, "alice", "w\u00f6nder")
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"$2b${COST}$" in file.read_text()
    assert list(tmp_path.iterdir()) == [file]


def test_a_user_is_replaced_and_all_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    for user in ("alice", "al", "bob"):
        run(file, user, f"first of {user}")
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["# people", "", *lines]))  # and no newline at the end
    file.chmod(0o640)
    before = file.stat().st_ino
    run(file, "al", "second")
    assert has(file, "al", "second")
    assert not has(file, "al", "first of al")
    now = file.read_text().splitlines()
    assert [now[0], now[1], now[2], now[4]] == ["# people", "", lines[0], lines[2]]
    assert len(now) == 5
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.stat().st_ino != before  # replaced as a whole, not written over


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(file)
    run(link, "alice", "wonder")
    assert link.is_symlink()
    assert has(file, "alice", "wonder")


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("a:b", "x"),
        ("", "x"),
        ("#a", "x"),
        (" a", "x"),
        ("a\nb", "x"),
        ("*", "x"),
        ("authenticated", "x"),
        ("alice", ""),
        ("alice", "\n"),
        ("alice", "s3cr3t" * 20),
        ("alice", "s3cr3t\0"),
    ],
)
def test_what_no_server_would_take_is_refused(tmp_path: Path, user: str, password: str) -> None:
    file = tmp_path / "htpasswd"
    error = run(file, user, password, code=1).stderr
    assert len(error.splitlines()) == 1
    assert b"s3cr3t" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_other_hashes_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    file.write_text("bob:$apr1$abc$def\n")
    assert b"line 1 is not" in run(file, "alice", "x", code=1).stderr
    assert file.read_text() == "bob:$apr1$abc$def\n"
    run(file, "bob", "x")  # its own line is what is replaced
    assert has(file, "bob", "x")


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    error = run(tmp_path / "no" / "htpasswd", "alice", "x", code=1).stderr
    assert len(error.splitlines()) == 1
    assert b"No such file" in error


def test_a_user_that_is_there_twice_is_there_once_afterwards() -> None:
    data = b"a:x\nb:$2b$04$" + b"." * 53 + b"\na:y\n"
    written = with_user(data, "a", b"new").splitlines()
    assert [line.partition(b":")[0] for line in written] == [b"a", b"b"]


def test_without_a_terminal_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(tmp_path / "x"), "alice"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert b"--stdin" in done.stderr


def test_at_a_terminal_it_asks_twice_and_shows_nothing(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    try:
        ours, theirs = pty.openpty()
    except OSError as error:  # a container without /dev/pts
        pytest.skip(f"needs a pseudo terminal: {error}")
    # Without a terminal of its own /dev/tty cannot be opened, and stdin is asked.
    with subprocess.Popen(
        [*COMMAND, str(file), "alice"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen = b""
        for prompt in (b"Password: ", b"Repeat for confirmation: "):
            while prompt not in seen:
                seen += os.read(ours, 1024)
            os.write(ours, b"wonder\n")
        assert process.wait(30) == 0
    try:
        while more := os.read(ours, 1024):
            seen += more
    except OSError:
        pass  # the other side is closed
    os.close(ours)
    assert b"wonder" not in seen
    assert has(file, "alice", "wonder")
