"""A file of settings that is read again when it has changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from epoch import log
from epoch.config import SettingsError

LOOK_SECONDS: Final = 1.0
"""How often the file is looked at, at most."""

MAX_BYTES: Final = 16 * 1024 * 1024

T = TypeVar("T")


class Watched(Generic[T]):
    """The parsed contents of a file. A new version that cannot be read or parsed is logged, once,
    and the last good one stays.

    `SettingsError`: it cannot be read at the start.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        """`parse` raises ValueError with a text that says what is wrong in which line."""
        self._path = path
        self._parse = parse
        self._looked = time.monotonic()
        self._unreadable = ""  # why, as it was logged; empty while the file can be read
        try:
            self._seen = self._stamp()
            self._current = self._parsed(self._read())
        except OSError as error:
            raise SettingsError(self._cannot_read(error)) from None

    def current(self) -> T:
        """What the file says now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._current

    def reload(self) -> None:
        """Read the file now, whether it looks changed or not."""
        self._seen = ()
        self._unreadable = ""
        self._look()

    def _look(self) -> None:
        try:
            # Taken before the file is read: what is written meanwhile is seen the next time.
            stamp = self._stamp()
            if stamp == self._seen:
                return
            data = self._read()
        except OSError as error:
            # Looked at again in a second, since it may pass; but logged only once.
            reason = self._cannot_read(error)
            if reason != self._unreadable:
                log.error("settings stay as they were", reason=reason)
            self._unreadable = reason
            return
        self._unreadable = ""
        self._seen = stamp  # a version that cannot be parsed is not looked at again
        try:
            self._current = self._parsed(data)
        except SettingsError as error:
            log.error("settings stay as they were", reason=error)
        else:
            log.info("settings read again", file=self._path)

    def _stamp(self) -> tuple[int, ...]:
        status = self._path.stat()
        # With the time of the last change of its mode: a chmod(1) may be what was missing.
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            return file.read(MAX_BYTES + 1)

    def _cannot_read(self, error: OSError) -> str:
        return f"cannot read {self._path}: {error.strerror}"

    def _parsed(self, data: bytes) -> T:
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            return self._parse(data)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{self._path}: {error}") from None


class Fixed(Generic[T]):
    """What no file says, and so never changes; in place of a `Watched`."""

    def __init__(self, value: T) -> None:
        self._value = value

    def current(self) -> T:
        """See `Watched`."""
        return self._value

    def reload(self) -> None:
        """Nothing to read."""
