"""Users with bcrypt passwords, verified off the loop.

A check costs tens of milliseconds by design, so it runs in a few threads of its own, and what was
right is remembered: clients that use Basic send the password with every request.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from epoch.auth.policy import RESERVED
from epoch.auth.watched import Watched
from epoch.errors import Code, RegistryError

THREADS: Final = 2
MAX_WAITING: Final = 64
"""Checks under way or waiting; more are answered 429, so that guessing cannot pile up."""

MAX_REMEMBERED: Final = 1024
BCRYPT_BYTES: Final = 72
"""What bcrypt looks at of a password; `htpasswd` cuts there too."""

COST: Final = 10
"""Of the passwords that we write: some 60 ms for each that is checked."""

_USER = re.compile(r"(?!#)[^:\s](?:[^:]*[^:\s])?")
_ENTRY = re.compile(r"([^:]+):(\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53})")


class Users:
    """The users of an htpasswd file, which is read again when it changes."""

    def __init__(self, path: Path) -> None:
        """`SettingsError`: the file cannot be read, or has an entry that is not bcrypt."""
        self._entries = Watched(path, parse)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bcrypt")
        self._waiting = 0
        # We cache a keyed hash of each verified password, never the password. The key never leaves
        # this process.
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()

    def has(self, user: str) -> bool:
        """Whether there is such a user now."""
        return user in self._entries.current()

    async def verify(self, user: str, password: bytes) -> bool:
        """Whether that is the user's password. A user who does not exist costs the same time.

        RegistryError TOOMANYREQUESTS where too many checks are waiting.
        """
        entries = self._entries.current()
        stored = entries.get(user)
        known = stored is not None
        if stored is None:
            stored = _nobody(entries)
        memory = self._remembered(user, password, stored)
        if memory in self._right:
            self._right.move_to_end(memory)
            return known
        if self._waiting >= MAX_WAITING:
            raise RegistryError(Code.TOOMANYREQUESTS, headers=(("Retry-After", "1"),))
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._threads, _check, password, stored)
        finally:
            self._waiting -= 1
        if right and known:
            self._right[memory] = None
            if len(self._right) > MAX_REMEMBERED:
                self._right.popitem(last=False)
        return right and known

    def reload(self) -> None:
        """Read the file now."""
        self._entries.reload()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _remembered(self, user: str, password: bytes, stored: bytes) -> bytes:
        # With the stored hash, so that a changed password is forgotten.
        parts = (user.encode("utf-8", "surrogateescape"), stored, password)
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._key, message, hashlib.sha256)


def parse(data: bytes) -> dict[str, bytes]:
    """Stored hashes by user. ValueError: what is wrong in which line, without the line itself."""
    entries: dict[str, bytes] = {}
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise ValueError(f"line {number} is not user:bcrypt-hash: make it with epoch htpasswd")
        user = found[1]
        if user in RESERVED:
            raise ValueError(f"line {number}: {user!r} cannot be a user: it has a meaning in rules")
        if user in entries:
            raise ValueError(f"line {number}: the user is there twice")
        entries[user] = found[2].encode()
    return entries


def with_user(data: bytes, user: str, password: bytes) -> bytes:
    """The file with this user's new password, all other lines as they were.

    ValueError: what is wrong with user, password, or another line; it holds no password.
    """
    import bcrypt

    if _USER.fullmatch(user) is None or not user.isprintable():
        raise ValueError("a user's name must be printable, without colons, and not begin with #")
    if not password or b"\0" in password:
        raise ValueError("the password is empty, or holds a NUL")
    if len(password) > BCRYPT_BYTES:
        raise ValueError(f"the password is longer than the {BCRYPT_BYTES} bytes that bcrypt reads")
    entry = f"{user}:{bcrypt.hashpw(password, bcrypt.gensalt(COST)).decode()}"
    lines = data.decode("utf-8", "surrogateescape").splitlines()
    places = [at for at, line in enumerate(lines) if line.strip().startswith(f"{user}:")]
    for at in reversed(places):
        del lines[at]
    lines.insert(places[0] if places else len(lines), entry)
    written = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    parse(written)
    return written


def _check(password: bytes, stored: bytes) -> bool:
    import bcrypt

    if b"\0" in password:
        return False
    return bcrypt.checkpw(password[:BCRYPT_BYTES], stored)


def _nobody(entries: dict[str, bytes]) -> bytes:
    """The stored hash of no password at all, as costly as the costliest there is."""
    cost = max((stored[4:6] for stored in entries.values()), default=b"10")
    return b"$2b$" + cost + b"$" + b"." * 53
