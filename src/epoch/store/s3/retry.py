"""Attempts at one call to the store: for how long, how far apart, and how many in an outage."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from epoch import log
from epoch.store.base import StoreError
from epoch.store.s3.errors import Failure, understand

_T = TypeVar("_T")

_BASE: Final = 0.1
_BASE_THROTTLED: Final = 1.0
_CAP: Final = 5.0
"""Seconds. Full jitter: the n-th pause is uniform between 0 and min(cap, base * 2**n)
(AWS Architecture Blog, "Exponential Backoff And Jitter")."""

_BURST: Final = 100.0
_RATE: Final = 10.0
"""Repetitions that may be made at once, and per second, by all calls together: a store that is down
or overloaded gets little more than the calls themselves, however many wait for it."""

_WARN_EVERY: Final = 10.0
"""Seconds between two lines in the log that the store is failing."""


class Failed(Exception):
    """The call has failed for good; inside the store only."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Retrier:
    """Repeats attempts that failed for a moment. One per store: the budget is shared."""

    def __init__(self, patience: float) -> None:
        """`patience`: seconds for which a call is repeated after its first failure."""
        self._patience = patience
        self._budget = RetryBudget()
        self._warned = float("-inf")

    async def run(
        self,
        attempt: Callable[[], Awaitable[_T]],
        *,
        once: bool = False,
        settled: Callable[[Failure], Awaitable[_T | None]] | None = None,
    ) -> _T:
        """The result of the first attempt that succeeds, else `Failed`. `StoreError` and `Failed`
        of an attempt pass through: it has been repeated already.

        `once`: there is one attempt only. `settled` is asked after each failure whether the call
        has had its effect all the same; a result other than None is then the call's.
        """
        number, deadline = 0, 0.0
        while True:
            try:
                result = await attempt()
            except (StoreError, Failed):
                raise
            except Exception as error:  # noqa: BLE001 - everything is understood in one place
                failure, cause = understand(error), error
            else:
                if number:
                    self._budget.give_back()
                return result
            if settled is not None and (effect := await settled(failure)) is not None:
                return effect
            number += 1
            if number == 1:
                deadline = asyncio.get_running_loop().time() + self._patience
            if once or not failure.transient or not await self._wait(failure, number, deadline):
                raise Failed(failure) from cause

    async def _wait(self, failure: Failure, number: int, deadline: float) -> bool:
        """Wait until the next attempt may be made; False: it may not, by `deadline` (of the loop's
        clock). The last one is made right at the deadline."""
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0.0:
            return False
        self._warn(failure)
        base = _BASE_THROTTLED if failure.throttled else _BASE
        pause = random.uniform(0.0, min(_CAP, base * 2 ** min(number, 10)))  # noqa: S311
        await asyncio.sleep(min(pause, left))
        try:
            async with asyncio.timeout_at(deadline):
                await self._budget.take()
        except TimeoutError:
            return False
        return True

    def _warn(self, failure: Failure) -> None:
        """Calls may now be silent for as long as the patience: say why."""
        now = time.monotonic()
        if now - self._warned >= _WARN_EVERY:
            self._warned = now
            log.warn("the store fails, calls to it are repeated", reason=failure.text)


class RetryBudget:
    """Tokens, one for each repetition, that come back with time: who finds none waits for one."""

    def __init__(self) -> None:
        self._left = _BURST
        self._counted = time.monotonic()
        self._turn = asyncio.Lock()  # first come, first served

    async def take(self) -> None:
        """Take a token as soon as there is one."""
        async with self._turn:
            if (lacking := 1.0 - self._refill()) > 0.0:
                await asyncio.sleep(lacking / _RATE)
            self._left = self._refill() - 1.0

    def give_back(self) -> None:
        """A repetition has succeeded: the store works again, and who waits may go on sooner."""
        self._left = min(_BURST, self._refill() + 1.0)

    def _refill(self) -> float:
        now = time.monotonic()
        self._left = min(_BURST, self._left + (now - self._counted) * _RATE)
        self._counted = now
        return self._left
