"""Bounded concurrency: order, bound, failures."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from epoch.concurrently import both, for_each


class Crowd:
    """Counts how many of its calls are under way."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.finished = 0
        self.begun = asyncio.Event()

    async def __call__(self, item: int) -> int:
        self.inside += 1
        self.begun.set()
        self.most = max(self.most, self.inside)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            if item < 0:
                raise KeyError(item)
            self.finished += 1
            return item * 2
        finally:
            self.inside -= 1


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_results_come_in_order_and_never_more_than_the_limit_run() -> None:
    crowd = Crowd()
    assert await for_each(crowd, range(50), limit=4) == [2 * number for number in range(50)]
    assert crowd.most == 4
    assert await for_each(crowd, numbers(50), limit=7) == [2 * number for number in range(50)]
    assert crowd.most == 7
    assert await for_each(crowd, []) == []


async def test_the_first_failure_is_raised_as_it_is_and_ends_the_rest() -> None:
    crowd = Crowd()
    with pytest.raises(KeyError):
        await for_each(crowd, [1, -1, *range(100)], limit=3)
    assert crowd.inside == 0
    assert crowd.finished < 10

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("listing failed")

    with pytest.raises(OSError, match="listing failed"):
        await for_each(crowd, broken())
    assert crowd.inside == 0


async def test_cancelling_the_caller_cancels_what_it_started() -> None:
    crowd = Crowd()
    task = asyncio.create_task(for_each(crowd, range(100), limit=5))
    await crowd.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert crowd.inside == 0


async def test_both() -> None:
    crowd = Crowd()
    assert await both(crowd(1), crowd(2)) == (2, 4)
    assert crowd.most == 2
    with pytest.raises(KeyError):
        await both(crowd(-1), crowd(2))
    assert crowd.inside == 0
