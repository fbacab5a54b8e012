"""Bounded concurrency: order, bound, failures, shared answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from epoch.fan_out import both, for_each
from epoch.single_flight import AT_ONCE, SingleFlight


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


class Answers:
    """Counts how often it is asked; every answer waits to be let go, and says which one it is."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered: list[asyncio.Future[None]] = []

    async def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        answered = asyncio.get_running_loop().create_future()
        self.answered.append(answered)
        await answered
        return number

    def let_go(self, number: int, error: Exception | None = None) -> None:
        answered = self.answered[number - 1]
        if error is None:
            answered.set_result(None)
        else:
            answered.set_exception(error)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def crowd(
    shared: SingleFlight, answers: Answers, count: int, question: str = "?"
) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(shared.do(question, answers)) for _ in range(count)]
    await turns()
    return tasks


async def test_few_ask_for_themselves() -> None:
    shared, answers = SingleFlight(60.0), Answers()
    tasks = await crowd(shared, answers, AT_ONCE)
    others = await crowd(shared, answers, 1, "another question")
    assert answers.asked == AT_ONCE + 1
    for number in range(1, AT_ONCE + 2):
        answers.let_go(number)
    assert await asyncio.gather(*tasks, *others) == list(range(1, AT_ONCE + 2))
    assert not shared._lines


async def test_many_share_an_answer_that_is_younger_than_their_question() -> None:
    shared, answers = SingleFlight(60.0), Answers()
    first = await crowd(shared, answers, AT_ONCE)
    waiting = await crowd(shared, answers, 50)
    assert answers.asked == AT_ONCE
    answers.let_go(2)
    await turns()
    assert answers.asked == AT_ONCE + 1
    late = await crowd(shared, answers, 3)  # that one has begun already
    answers.let_go(AT_ONCE + 1)
    assert set(await asyncio.gather(*waiting)) == {AT_ONCE + 1}
    await turns()
    assert answers.asked == AT_ONCE + 2
    for number in {*range(1, AT_ONCE + 3)} - {2, AT_ONCE + 1}:
        answers.let_go(number)
    assert set(await asyncio.gather(*late)) == {AT_ONCE + 2}
    assert await asyncio.gather(*first) == list(range(1, AT_ONCE + 1))
    assert not shared._lines


async def test_a_failure_is_everybodys() -> None:
    shared, answers = SingleFlight(60.0), Answers()
    first = await crowd(shared, answers, AT_ONCE)
    waiting = await crowd(shared, answers, 3)
    answers.let_go(1, KeyError("first"))
    with pytest.raises(KeyError, match="first"):
        await first[0]
    await turns()
    answers.let_go(AT_ONCE + 1, KeyError("shared"))
    for task in waiting:
        with pytest.raises(KeyError, match="shared"):
            await task
    for number in range(2, AT_ONCE + 1):
        answers.let_go(number)
    await asyncio.gather(*first[1:])
    assert not shared._lines


async def test_who_leaves_takes_nobody_along() -> None:
    shared, answers = SingleFlight(60.0), Answers()
    first = await crowd(shared, answers, AT_ONCE)
    waiting = await crowd(shared, answers, 3)
    waiting[0].cancel()
    first[0].cancel()  # its end begins the next one
    await turns()
    assert answers.asked == AT_ONCE + 1
    waiting[1].cancel()
    await turns()
    answers.let_go(AT_ONCE + 1)
    assert await waiting[2] == AT_ONCE + 1
    for number in range(2, AT_ONCE + 1):
        answers.let_go(number)
    await asyncio.gather(*first[1:])
    assert not shared._lines


async def test_what_nobody_waits_for_any_more_is_not_asked_on() -> None:
    shared, answers = SingleFlight(60.0), Answers()
    first = await crowd(shared, answers, AT_ONCE)
    early = await crowd(shared, answers, 2)
    for task in early:
        task.cancel()
    await turns()
    answers.let_go(1)
    await turns()
    assert answers.asked == AT_ONCE  # gone before it began
    more = await crowd(shared, answers, 1)
    [late] = await crowd(shared, answers, 1)
    answers.let_go(2)
    await turns()
    assert answers.asked == AT_ONCE + 2
    late.cancel()
    await turns()
    assert answers.answered[AT_ONCE + 1].cancelled()  # while it was under way
    for number in (3, 4, AT_ONCE + 1):
        answers.let_go(number)
    await asyncio.gather(*first, *more)
    assert not shared._lines


async def test_who_waits_has_a_limit_of_his_own() -> None:
    """Nothing is answered any more: those who came later end as well, each in his own time."""
    limit = 0.3
    shared, answers = SingleFlight(limit), Answers()
    loop = asyncio.get_running_loop()
    ended: list[float] = []

    async def wait() -> None:
        begun = loop.time()
        with pytest.raises(TimeoutError):
            await shared.do("?", answers)
        ended.append(loop.time() - begun)

    first = await crowd(shared, answers, AT_ONCE)
    waiting = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(limit / 2)
    answers.let_go(1)  # so the next one begins, which they wait for, and others wait for one more
    await turns()
    waiting += [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(limit / 2)
    waiting += [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.gather(*waiting)
    assert len(ended) == 9
    assert all(limit - 0.01 <= seconds < limit + 0.25 for seconds in ended), ended
    assert answers.answered[AT_ONCE].cancelled()  # nobody was left to wait for it
    for number in range(2, AT_ONCE + 1):
        answers.let_go(number)
    assert await asyncio.gather(*first) == list(range(1, AT_ONCE + 1))
    assert not shared._lines


async def test_one_whose_time_is_over_takes_nobody_along() -> None:
    limit = 0.4
    shared, answers = SingleFlight(limit), Answers()
    first = await crowd(shared, answers, AT_ONCE)
    early = await crowd(shared, answers, 1)
    await asyncio.sleep(limit / 2)
    late = await crowd(shared, answers, 1)
    answers.let_go(1)
    with pytest.raises(TimeoutError):
        await early[0]
    answers.let_go(AT_ONCE + 1)
    assert await late[0] == AT_ONCE + 1
    for number in range(2, AT_ONCE + 1):
        answers.let_go(number)
    await asyncio.gather(*first)
    assert not shared._lines
