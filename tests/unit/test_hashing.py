"""The digests of concurrent pushes: in rounds, in a thread, at once; the same whichever way."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import pytest

from epoch._fastio import (
    HashQueue,
    PartBuffer,
    Pool,
    Sha256,
    fill,
    hash_together,
    live_views,
)
from epoch.upload import hashing
from epoch.upload.hashing import (
    LANES,
    MAX_BACKLOG,
    ROUND_BYTES,
    SLICE,
    THREAD_JOB_BYTES,
    Digesting,
    Hashing,
)

BYTES = random.Random(4).randbytes(1 << 20)


class Push:
    """A body that comes in slices, as a sink takes them: one part at a time."""

    PART = 6 << 20  # a pile, and a rest

    def __init__(self, pool: Pool, ways: Hashing, size: int) -> None:
        self.rests = 0
        self.expected = hashlib.sha256()
        self.digest = Sha256()
        self.digesting = Digesting(ways, self.digest, self._hashed, self.PART)
        self.at_ends: dict[int, str] = {}
        """The digest up to the end of each full part, by the number of bytes."""
        self._pool = pool
        self._left = size
        self._go = asyncio.Event()

    def _hashed(self) -> None:
        self._go.set()

    async def run(self) -> None:
        part: PartBuffer | None = None
        while self._left:
            if part is None:
                part = self._pool.lend(self.PART, self.PART, self.PART)
                while part is None:
                    await asyncio.sleep(0.001)
                    part = self._pool.lend(self.PART, self.PART, self.PART)
            slice_ = BYTES[: min(self._left, part.room)]
            fill(part, slice_)
            self._go.clear()
            self.digesting.take(part, len(slice_))
            self.expected.update(slice_)
            self._left -= len(slice_)
            if not part.room:
                self.at_ends[self.PART * (len(self.at_ends) + 1)] = self.expected.hexdigest()
                part.release()
                part = None
            while self.digesting.must_wait:
                self.rests += 1
                await self._go.wait()
                self._go.clear()
            await asyncio.sleep(0)
        if part is not None:
            part.release()
        await self.digesting.settle()
        assert self.digest.hexdigest() == self.expected.hexdigest()
        midstates = self.digesting.queue.midstates
        assert {at: Sha256(state).hexdigest() for at, state in midstates.items()} == self.at_ends


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    lent = Pool(256 << 20)
    yield lent
    assert lent.lent == 0
    assert live_views() == 0


async def _run(ways: Hashing, pushes: list[Push]) -> None:
    for _ in pushes:
        ways.join()
    async with asyncio.timeout(30):
        await asyncio.gather(*(push.run() for push in pushes))
    for _ in pushes:
        ways.leave()
    ways.close()


async def test_many_pushes_are_hashed_in_rounds(pool: Pool) -> None:
    ways = Hashing(lanes=4)
    pushes = [Push(pool, ways, 2 * ROUND_BYTES + (2 << 20) + 1000 * n) for n in range(9)]
    assert not ways.in_rounds
    await _run(ways, pushes)
    assert all(push.rests >= 2 for push in pushes)


async def test_a_round_is_hashed_in_slices(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of the loop takes all that waits; who is done goes on while others are hashed."""
    taken: list[tuple[int, int]] = []
    resting: list[int] = []

    def watched(queues: list[HashQueue]) -> None:
        taken.append((len(queues), max(queue.held for queue in queues)))
        resting.append(sum(push.digesting.must_wait for push in pushes))
        hash_together(queues)

    monkeypatch.setattr(hashing, "hash_together", watched)
    ways = Hashing(lanes=4)
    pushes = [Push(pool, ways, ROUND_BYTES) for _ in range(2 * LANES)]
    await _run(ways, pushes)
    assert max(taken) == (LANES, SLICE)
    assert {2 * LANES, LANES} <= set(resting)


@pytest.mark.parametrize("threads", [0, 1])
async def test_what_waits_at_the_end_is_hashed_in_slices(pool: Pool, threads: int) -> None:
    """Neither `settle` nor the end of the rounds hashes a whole pile in one step."""
    ways = Hashing(threads=threads, lanes=2)
    ways.join()
    ways.join()
    digest, part = Sha256(), pool.lend(ROUND_BYTES, ROUND_BYTES, ROUND_BYTES)
    assert part is not None
    digesting = Digesting(ways, digest, lambda: None)
    for _ in range(3):
        fill(part, BYTES)
        digesting.take(part, len(BYTES))
    assert digesting.queue.waiting == 3 * len(BYTES)
    ways.leave()
    digesting.flush()
    left = (0, 3 * len(BYTES)) if threads else (3 * len(BYTES) - SLICE, 0)
    assert (digesting.queue.waiting, digesting.queue.held) == left
    async with asyncio.timeout(10):
        await digesting.settle()
    assert digest.hexdigest() == hashlib.sha256(3 * BYTES).hexdigest()
    part.release()
    ways.close()


async def test_few_pushes_do_not_rest(pool: Pool) -> None:
    ways = Hashing(lanes=4)
    pushes = [Push(pool, ways, 3 << 20) for _ in range(3)]
    await _run(ways, pushes)
    assert not any(push.rests for push in pushes)


async def test_a_cpu_without_lanes_has_no_rounds(pool: Pool) -> None:
    ways = Hashing(lanes=0)
    pushes = [Push(pool, ways, 1 << 20) for _ in range(9)]
    await _run(ways, pushes)
    assert not any(push.rests for push in pushes)


async def test_a_lonely_push_leaves_the_rounds(pool: Pool) -> None:
    """The others are there, but nothing comes from them: no need to go to and fro."""
    ways = Hashing(lanes=4)
    push = Push(pool, ways, 24 << 20)
    for _ in range(8):
        ways.join()
    async with asyncio.timeout(30):
        await push.run()
    assert push.rests == 1


async def test_what_waits_is_hashed_first_when_the_rounds_end(pool: Pool) -> None:
    ways = Hashing(lanes=2)
    ways.join()
    ways.join()
    digest, part = Sha256(), pool.lend(ROUND_BYTES, ROUND_BYTES, ROUND_BYTES)
    assert part is not None
    digesting = Digesting(ways, digest, lambda: None)
    for count, left in ((1000, 1000), (10, 0), (5, 0)):
        fill(part, BYTES[part.filled : part.filled + count])
        digesting.take(part, count)
        assert digesting.queue.waiting == left
        if ways.in_rounds:
            ways.leave()
    assert not digesting.must_wait
    assert digest.hexdigest() == hashlib.sha256(BYTES[:1015]).hexdigest()
    part.release()


async def test_a_thread_hashes_what_is_worth_it(pool: Pool) -> None:
    ways = Hashing(threads=1, lanes=0)
    sizes = 40 << 20, THREAD_JOB_BYTES + 1, 1000
    pushes = [Push(pool, ways, size) for size in sizes]
    await _run(ways, pushes)


async def test_the_receiver_waits_for_a_slow_thread(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that waits is bounded, and is given back."""
    ways = Hashing(threads=1, lanes=0)
    most = 0

    class Watched(Push):
        def _hashed(self) -> None:
            nonlocal most
            most = max(most, pool.lent)
            super()._hashed()

    push = Watched(pool, ways, 100 << 20)
    await _run(ways, [push])
    assert most <= MAX_BACKLOG + 2 * Push.PART


async def test_rounds_and_a_thread_together(pool: Pool) -> None:
    """Pushes come and go, so that each is hashed now this way, now that way."""
    ways = Hashing(threads=2, lanes=3)
    dice = random.Random(7)

    async def one(delay: float, size: int) -> None:
        await asyncio.sleep(delay)
        ways.join()
        try:
            await Push(pool, ways, size).run()
        finally:
            ways.leave()

    async with asyncio.timeout(60):
        await asyncio.gather(
            *(one(dice.random() * 0.3, dice.randrange(1, 20 << 20)) for _ in range(24))
        )
    ways.close()


@pytest.mark.parametrize(("threads", "lanes"), [(0, 2), (1, 0)])
async def test_a_push_that_is_dropped_gives_its_memory_back(
    pool: Pool, threads: int, lanes: int
) -> None:
    ways = Hashing(threads=threads, lanes=lanes)
    other = Push(pool, ways, 8 << 20)
    for _ in range(3):
        ways.join()
    digesting = Digesting(ways, Sha256(), lambda: None)
    part = pool.lend(4 << 20, 4 << 20, 4 << 20)
    assert part is not None
    for _ in range(4):
        fill(part, BYTES)
        digesting.take(part, len(BYTES))
    part.release()
    digesting.drop()
    async with asyncio.timeout(10):
        await other.run()
        while pool.lent:  # noqa: ASYNC110 - a thread of its own ends when it ends
            await asyncio.sleep(0.001)
    ways.close()


async def test_settling_ends_with_the_last_bytes_of_a_round(pool: Pool) -> None:
    ways = Hashing(lanes=2)
    pushes = [Push(pool, ways, ROUND_BYTES // 2) for _ in range(5)]
    await _run(ways, pushes)
