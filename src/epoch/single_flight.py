"""Answers the same question, asked by many at once, by few requests to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

Result = TypeVar("Result")

AT_ONCE: Final = 4
"""Requests under way for the same question."""


class SingleFlight:
    """What many ask at once is asked for all of them, not by each: a thousand machines that start
    the same image do not become a thousand reads of its tag.

    Up to `AT_ONCE` ask for themselves. Who comes while so many are under way waits, together with
    all others who do, for one that begins as soon as one of those has ended: no answer is older
    than the question, so everybody still sees what was written before he asked.

    Who asks for himself is bound by the limits of what he calls. Who waits has a limit of his own:
    those that he waits for may take all of their time, one after another.
    """

    def __init__(self, limit: float) -> None:
        """`limit`: seconds that one may wait for others."""
        self._limit = limit
        self._lines: dict[Hashable, _Line] = {}

    async def do(
        self, question: Hashable, function: Callable[[], Coroutine[Any, Any, Result]]
    ) -> Result:
        """What `function()` returns or raises; it must be the same for the same question.

        `TimeoutError`: this caller has waited for the limit; others may still.
        """
        line = self._lines.get(question)
        if line is None:
            line = self._lines[question] = _Line()
        if line.under_way < AT_ONCE:
            line.under_way += 1
            try:
                return await function()
            finally:
                self._ended(question, line)
        if line.next is None:
            line.next = _Batch(function)
        batch: _Batch[Result] = line.next
        batch.waiting += 1
        try:
            async with asyncio.timeout(self._limit):
                return await asyncio.shield(batch.answer)
        finally:
            batch.waiting -= 1
            if not batch.waiting and batch.task is not None:
                batch.task.cancel()

    def _ended(self, question: Hashable, line: _Line) -> None:
        line.under_way -= 1
        batch, line.next = line.next, None
        if batch is not None and batch.waiting:
            line.under_way += 1
            batch.task = asyncio.get_running_loop().create_task(batch.function())
            batch.task.add_done_callback(batch.tell)
            batch.task.add_done_callback(lambda _: self._ended(question, line))
        elif not line.under_way:
            del self._lines[question]


class _Line:
    """Who asks the same."""

    def __init__(self) -> None:
        self.under_way = 0
        self.next: _Batch[Any] | None = None


class _Batch(Generic[Result]):
    """Those who wait for the same answer."""

    def __init__(self, function: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        self.function = function
        self.waiting = 0
        self.answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[Result] | None = None

    def tell(self, task: asyncio.Task[Result]) -> None:
        """The answer is there."""
        if task.cancelled():
            self.answer.cancel()
        elif (error := task.exception()) is not None:
            self.answer.set_exception(error)
            self.answer.exception()  # nobody may be left to see it
        else:
            self.answer.set_result(task.result())
