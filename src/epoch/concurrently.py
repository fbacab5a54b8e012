"""Many small requests to the store at once, but never more than a few."""

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
)
from typing import Any, Final, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LIMIT: Final = 16
"""Requests under way per call: enough to hide a store's latency, below its connection pool."""

AT_ONCE: Final = 4
"""The same question under way; see `Shared`."""


MAX_ON_LOOP: Final = 64 * 1024
"""Bytes of a manifest that is looked at on the event loop, which takes some 3 ms; 4 MiB, 100 ms."""


async def off_loop(size: int, function: Callable[[], Result]) -> Result:
    """`function()`, which looks at `size` bytes: in a thread where that would hold the loop."""
    return function() if size <= MAX_ON_LOOP else await asyncio.to_thread(function)


async def for_each(
    function: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item] | AsyncIterable[Item],
    limit: int = LIMIT,
) -> list[Result]:
    """`function` of every item, at most `limit` at a time; the results in the items' order.

    The first failure cancels the rest and is raised as it is.
    """
    gate = asyncio.Semaphore(limit)
    tasks: list[asyncio.Task[Result]] = []

    async def run(item: Item) -> Result:
        try:
            return await function(item)
        finally:
            gate.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for item in _iterate(items):
                await gate.acquire()
                tasks.append(group.create_task(run(item)))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _iterate(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def both(first: Awaitable[Item], second: Awaitable[Result]) -> tuple[Item, Result]:
    """The results of two awaitables that run at once; the failure of one cancels the other."""
    try:
        async with asyncio.TaskGroup() as group:
            one = group.create_task(_await(first))
            two = group.create_task(_await(second))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return one.result(), two.result()


async def _await(awaitable: Awaitable[Result]) -> Result:
    return await awaitable


class Shared:
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

    async def ask(
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

    def _ended(self, question: Hashable, line: "_Line") -> None:
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

    def tell(self, task: "asyncio.Task[Result]") -> None:
        """The answer is there."""
        if task.cancelled():
            self.answer.cancel()
        elif (error := task.exception()) is not None:
            self.answer.set_exception(error)
            self.answer.exception()  # nobody may be left to see it
        else:
            self.answer.set_result(task.result())
