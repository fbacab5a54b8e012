"""Attempts at one call to the store: how often, how far apart, and how many in an outage."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from epoch.store.base import StoreError
from epoch.store.s3_errors import Failure, understand

_T = TypeVar("_T")

ATTEMPTS: Final = 4
_BASE: Final = 0.1
_BASE_THROTTLED: Final = 1.0
_CAP: Final = 5.0
"""Seconds. Full jitter: the n-th pause is uniform between 0 and min(cap, base * 2**n)
(AWS Architecture Blog, "Exponential Backoff And Jitter")."""

_BUDGET: Final = 100.0
_EARNED: Final = 0.1
"""Retries that may be spent before successes must earn more: when nothing works any more, calls
fail at their first attempt instead of fourfold load on a store that is down."""


class Failed(Exception):
    """All attempts have failed; inside the store only."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Retrier:
    """Repeats attempts that failed for a moment. One per store: the budget is shared."""

    def __init__(self) -> None:
        self._budget = _BUDGET

    async def run(
        self,
        attempt: Callable[[], Awaitable[_T]],
        *,
        attempts: int = ATTEMPTS,
        settled: Callable[[Failure], Awaitable[_T | None]] | None = None,
    ) -> _T:
        """The result of the first attempt that succeeds, else `Failed`.

        `settled` is asked after each failure whether the call has had its effect all the same; a
        result other than None is then the call's.
        """
        number = 0
        while True:
            try:
                result = await attempt()
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - everything is understood in one place
                failure, cause = understand(error), error
            else:
                self._budget = min(_BUDGET, self._budget + (1.0 if number else _EARNED))
                return result
            if settled is not None and (effect := await settled(failure)) is not None:
                return effect
            number += 1
            if not failure.transient or number >= attempts or self._budget < 1.0:
                raise Failed(failure) from cause
            self._budget -= 1.0
            base = _BASE_THROTTLED if failure.throttled else _BASE
            await asyncio.sleep(random.uniform(0.0, min(_CAP, base * 2**number)))  # noqa: S311
