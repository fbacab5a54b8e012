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
    """What a file says. A change that cannot be read is logged, and what it said before stays.

    `SettingsError`: it cannot be read at the start.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        """`parse` raises ValueError with a text that says what is wrong in which line."""
        self._path = path
        self._parse = parse
        self._looked = time.monotonic()
        self._seen = self._stamp()
        self._current = self._read()

    def current(self) -> T:
        """What the file says now."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._current

    def _look(self) -> None:
        try:
            # Taken before the file is read: what is written meanwhile is seen the next time.
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            self._current = self._read()
        except SettingsError as error:
            if self._seen is not None:
                log.error("settings stay as they were", reason=error)
            self._seen = None
        else:
            log.info("settings read again", file=self._path)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError as error:
            raise SettingsError(f"cannot read {self._path}: {error.strerror}") from None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> T:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise SettingsError(f"{self._path} is larger than {MAX_BYTES} bytes")
            return self._parse(data)
        except OSError as error:
            raise SettingsError(f"cannot read {self._path}: {error.strerror}") from None
        except ValueError as error:
            raise SettingsError(f"{self._path}: {error}") from None
