"""Sends many small requests to the store at once, but never more than a few."""

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LIMIT: Final = 16
"""Requests under way per call: enough to hide a store's latency, below its connection pool."""

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
