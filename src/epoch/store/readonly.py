"""Reads over a store that does not let us write: what they would note for later is left out."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

from epoch import log
from epoch.store.base import StoreError

_LOG_INTERVAL: Final = 60.0

_logged: Final[dict[str, float]] = {}


class unless_denied(AbstractContextManager[None]):  # noqa: N801 - as contextlib.suppress
    """Ends its block early, without an error, where the store denies it. `notes`: what cannot be
    written then, for the log, where it is said once a minute at most."""

    def __init__(self, notes: str) -> None:
        self._notes = notes

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, StoreError) or not error.denied:
            return False
        now = time.monotonic()
        if now - _logged.get(self._notes, float("-inf")) >= _LOG_INTERVAL:
            _logged[self._notes] = now
            log.warn("the store denies writing: only reads work", notes=self._notes, reason=error)
        return True
