"""The budget of bodies that are held whole: lent in turn, earned, shared, given back."""

from __future__ import annotations

import asyncio

import pytest

from epoch.errors import Code, RegistryError
from epoch.http import memory
from epoch.http.memory import EARN_RATE, EARN_SECONDS, Memory

MIB = 1 << 20


class Holder:
    """A connection that is waited for; it moves what the test says."""

    def __init__(self) -> None:
        self.moved: int | None = 0
        self.cut = 0

    def give_up(self) -> None:
        self.cut += 1


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WAIT_SECONDS", 0.05)


async def asking(budget: Memory, size: int, holder: Holder) -> asyncio.Task[memory.Hold]:
    task = asyncio.create_task(budget.reserve(size, holder))
    await asyncio.sleep(0)
    return task


async def test_it_is_lent_in_the_order_of_asking() -> None:
    """Also where a later one would fit: a large one is not passed by for ever."""
    budget, holder = Memory(10), Holder()
    first = await budget.reserve(6, holder)
    large, small = await asking(budget, 8, holder), await asking(budget, 1, holder)
    assert not large.done()
    assert not small.done()
    assert budget.lend(1, holder) is None
    assert (budget.waiting, budget.lent) == (2, 6)
    budget.leave(first, holder)
    assert {(await large).size, (await small).size} == {8, 1}
    assert (budget.waiting, budget.lent) == (0, 9)


async def test_who_waits_too_long_is_refused() -> None:
    budget, holder = Memory(10), Holder()
    hold = await budget.reserve(10, holder)
    waiting = [await asking(budget, 5, holder) for _ in range(3)]
    for task in waiting:
        with pytest.raises(RegistryError) as caught:
            await task
        assert (caught.value.code, caught.value.status) == (Code.UNAVAILABLE, 503)
        assert caught.value.headers[0][0] == "Retry-After"
    with pytest.raises(RegistryError):
        await budget.reserve(11, holder)
    budget.leave(hold, holder)
    assert (budget.waiting, budget.lent) == (0, 0)


async def test_who_gives_up_holds_up_nobody() -> None:
    budget, holder = Memory(10), Holder()
    hold = await budget.reserve(5, holder)
    large, small = await asking(budget, 9, holder), await asking(budget, 5, holder)
    large.cancel()
    assert (await small).size == 5
    budget.leave(hold, holder)
    # Given up in the moment in which it is granted.
    late = await asking(budget, 10, holder)
    budget.leave(await small, holder)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert (budget.waiting, budget.lent) == (0, 0)


async def test_equal_answers_are_held_once() -> None:
    budget, readers = Memory(10 * MIB), [Holder() for _ in range(5)]
    holds = [
        budget.share('"a"', bytes(MIB), await budget.reserve(MIB, reader), reader)
        for reader in readers
    ]
    assert {id(hold) for hold in holds} == {id(holds[0])}
    assert budget.lent == MIB
    other = budget.share('"b"', b"b", await budget.reserve(1, readers[0]), readers[0])
    assert other.data == b"b"
    untagged = budget.share("", b"c", await budget.reserve(1, readers[0]), readers[0])
    wrong = budget.share('"a"', b"d", await budget.reserve(1, readers[0]), readers[0])
    assert (untagged.data, wrong.data) == (b"c", b"d")
    for hold in (other, untagged, wrong):
        budget.leave(hold, readers[0])
    for reader in readers:
        assert budget.lent == MIB
        budget.leave(holds[0], reader)
    assert budget.lent == 0
    again = budget.share('"a"', b"new", await budget.reserve(3, readers[0]), readers[0])
    assert again.data == b"new"


async def test_while_others_wait_memory_must_be_earned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WAIT_SECONDS", 60.0)
    budget = Memory(3)
    slow, quick, working = Holder(), Holder(), Holder()
    for holder in (slow, quick, working):
        await budget.reserve(1, holder)
    working.moved = None  # its client is not what is waited for
    quick.moved = slow.moved = 0
    now = 0.0
    for _ in range(100):  # nobody else waits
        budget.tick(now)
        now += 1.0
    waiting = await asking(budget, 1, Holder())
    began = now
    while not slow.cut:
        assert now - began <= EARN_SECONDS + 1
        quick.moved += EARN_RATE
        slow.moved += EARN_RATE - 1
        budget.tick(now)
        now += 1.0
    assert now - began >= EARN_SECONDS - 1
    for _ in range(50):
        quick.moved += EARN_RATE
        budget.tick(now)
        now += 1.0
    assert (quick.cut, working.cut) == (0, 0)
    waiting.cancel()
