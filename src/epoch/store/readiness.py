"""Whether the store answers now, for those who decide whether to send us requests."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from epoch import layout, log
from epoch.store.base import Store, StoreError

LIMIT: Final = 3.0
"""Seconds that the store may take to answer."""

KEEP: Final = 5.0
"""Seconds that an answer holds, so that anybody may ask as often as they like."""


class Readiness:
    """Asks the store one cheap question at a time, on behalf of all who want to know."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._closing = False
        self._good = True
        self._until = 0.0  # of the monotonic clock
        self._asking: asyncio.Task[None] | None = None

    async def holds(self) -> bool:
        """Whether requests are welcome: the store answers, and we are not about to end."""
        if self._closing:
            return False
        if time.monotonic() >= self._until:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(), name="readiness")
            await asyncio.wait({self._asking})
        return self._good and not self._closing

    def end(self) -> None:
        """Requests are not welcome any more."""
        self._closing = True

    async def close(self) -> None:
        """End what may be under way."""
        self.end()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _ask(self) -> None:
        reason = ""
        try:
            async with asyncio.timeout(LIMIT):
                # Every registry that was ever pushed to has it. Where it is missing, the store
                # proves that the bucket or the directory is there all the same.
                await self._store.head(layout.DASHBOARD)
        except TimeoutError:
            reason = f"the store did not answer within {LIMIT:g} s"
        except StoreError as error:
            reason = str(error)
        finally:
            self._asking = None
        if self._good and reason:
            log.warn("not ready", reason=reason)
        elif not self._good and not reason:
            log.info("ready again")
        self._good = not reason
        self._until = time.monotonic() + KEEP
