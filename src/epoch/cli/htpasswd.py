"""`epoch htpasswd`: a user's password into the file of `epoch serve --htpasswd`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

_EPILOG: Final = """
\b
Examples:
  epoch htpasswd /etc/epoch/htpasswd alice
  openssl rand -base64 24 | tee ci.password | epoch htpasswd --stdin /etc/epoch/htpasswd ci
  epoch serve --htpasswd /etc/epoch/htpasswd

The password is asked for, and not shown. A new file can be read by its owner alone; one that is
there keeps its owner and mode. A server that runs takes the change within a second. To remove a
user, remove the line.
"""


@click.command(epilog=_EPILOG)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("user")
@click.option("--stdin", is_flag=True, help="Read the password from the first line of stdin.")
def htpasswd(file: Path, user: str, stdin: bool) -> None:
    """Set the password of USER in FILE: added, or in place of the one before."""
    from epoch.auth.htpasswd import with_user

    password = _from_stdin() if stdin else _asked()
    target = Path(os.path.realpath(file))  # or a link would be replaced, and not what it names
    try:
        _replace(target, with_user(_read(target), user, password))
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None
    except ValueError as error:
        raise click.ClickException(f"{file} stays as it was: {error}") from None


def _from_stdin() -> bytes:
    return sys.stdin.buffer.readline().rstrip(b"\r\n")


def _asked() -> bytes:
    if not sys.stdin.isatty():
        raise click.ClickException("no terminal to ask for the password at: use --stdin")
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password.encode("utf-8", "surrogateescape")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _replace(path: Path, data: bytes) -> None:
    """Write the file so that a server never reads half of it."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with open(number, "wb") as temporary:
            temporary.write(data)
            if path.exists():
                before = path.stat()
                os.fchown(number, before.st_uid, before.st_gid)
                os.fchmod(number, before.st_mode & 0o777)
            temporary.flush()
            os.fsync(number)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
