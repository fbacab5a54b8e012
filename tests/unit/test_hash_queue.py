"""Digests that are taken later: side by side, in another thread, while the part is given back."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading

import pytest

from epoch._fastio import (
    HashQueue,
    PartBuffer,
    Pool,
    Sha256,
    fill,
    hash_seconds,
    hash_together,
    lanes_worthwhile,
    live_views,
)

PART = 1 << 20
BYTES = random.Random(3).randbytes(1 << 20)


def _part(pool: Pool) -> PartBuffer:
    part = pool.lend(PART, PART, PART)
    assert part is not None
    return part


def _hash(queue: HashQueue) -> None:
    queue.take()
    queue.hash()


def _hash_together(queues: list[HashQueue]) -> None:
    for queue in queues:
        queue.take()
    hash_together(queues)


def _add(queue: HashQueue, part: PartBuffer, data: bytes) -> None:
    assert fill(part, data) == len(data)
    queue.add(part, len(data))


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 8, 9, 15, 16, 17, 40])
def test_any_number_of_digests_side_by_side(count: int) -> None:
    """Lengths of every kind: none, below a block, whole blocks, many; on digests that are within a
    block already."""
    dice = random.Random(count)
    pool = Pool(count * PART)
    digests = [(Sha256(), hashlib.sha256()) for _ in range(count)]
    parts = [_part(pool) for _ in range(count)]
    queues = [HashQueue(ours) for ours, _ in digests]
    for _ in range(30):
        for queue, part, (_, theirs) in zip(queues, parts, digests, strict=True):
            length = dice.choice([0, 1, 63, 64, 65, dice.randrange(300), dice.randrange(9000)])
            start = dice.randrange(1000)
            data = BYTES[start : start + length]
            _add(queue, part, data)
            theirs.update(data)
        _hash_together(queues)
        for queue in queues:
            queue.release()
        assert [ours.hexdigest() for ours, _ in digests] == [d.hexdigest() for _, d in digests]
    for part in parts:
        part.release()
    assert pool.lent == 0
    assert live_views() == 0


def test_side_by_side_gives_the_published_vector_in_every_lane() -> None:
    # FIPS 180-2, appendix B.3, in pieces that end anywhere.
    pool = Pool(16 * PART)
    queues = [HashQueue(Sha256()) for _ in range(16)]
    parts = [_part(pool) for _ in queues]
    left = [1_000_000] * len(queues)
    dice = random.Random(1)
    while any(left):
        for i, (queue, part) in enumerate(zip(queues, parts, strict=True)):
            take = min(left[i], dice.randrange(40_000))
            _add(queue, part, b"a" * take)
            left[i] -= take
        _hash_together(queues)
        for queue in queues:
            queue.release()
    for queue, part in zip(queues, parts, strict=True):
        assert queue.digest.hexdigest() == (
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
        )
        part.release()


def test_a_queue_over_several_parts() -> None:
    pool = Pool(3 * PART)
    queues = [HashQueue(Sha256()) for _ in range(2)]
    first, second, third = (_part(pool) for _ in range(3))
    _add(queues[0], first, BYTES[:1000])
    _add(queues[0], first, BYTES[1000:5000])
    _add(queues[0], second, BYTES[5000:9000])
    _add(queues[1], third, BYTES[:77])
    assert (queues[0].waiting, queues[1].waiting) == (9000, 77)
    for each in queues:
        each.take()
    assert (queues[0].waiting, queues[0].held) == (0, 9000)
    hash_together(queues)
    assert (queues[0].waiting, queues[0].held) == (0, 9000)
    assert queues[0].digest.hexdigest() == hashlib.sha256(BYTES[:9000]).hexdigest()
    assert queues[1].digest.hexdigest() == hashlib.sha256(BYTES[:77]).hexdigest()
    for queue in queues:
        queue.release()
    for part in (first, second, third):
        part.release()
    assert pool.lent == 0


def test_midstates_at_the_ends_of_parts() -> None:
    """Of a digest that goes on from another one: only multiples of the part size count."""
    pool = Pool(4 * PART)
    queues = [HashQueue(Sha256(), PART), HashQueue(Sha256(Sha256().export_state()), PART)]
    unnoted = HashQueue(Sha256())
    for queue in (*queues, unnoted):
        part = _part(pool)
        _add(queue, part, BYTES[:1000])
        _add(queue, part, BYTES[1000:])
        part.release()
    rest = _part(pool)
    _add(queues[0], rest, BYTES[:77])
    assert queues[0].midstates == {}
    _hash_together([queues[0], unnoted])
    _hash(queues[1])
    for queue in queues:
        assert queue.part_size == PART
        assert list(queue.midstates) == [PART]
        state = Sha256(queue.midstates[PART])
        assert (state.length, state.hexdigest()) == (PART, hashlib.sha256(BYTES).hexdigest())
    assert unnoted.midstates == {}
    assert queues[0].digest.length == PART + 77
    rest.release()
    for queue in (*queues, unnoted):
        queue.release()
    assert pool.lent == 0


def test_a_part_that_is_given_back_stays_until_it_is_hashed() -> None:
    freed = []
    pool = Pool(2 * PART, lambda: freed.append(pool.lent))
    queue = HashQueue(Sha256())
    part = _part(pool)
    _add(queue, part, BYTES[:100_000])
    part.release()
    other = _part(pool)  # would be the same memory
    fill(other, bytes(100_000))
    assert (pool.lent, freed) == (2 * PART, [])
    _hash(queue)
    assert queue.digest.hexdigest() == hashlib.sha256(BYTES[:100_000]).hexdigest()
    assert pool.lent == 2 * PART
    queue.release()
    assert (pool.lent, freed) == (PART, [PART])
    other.release()


def test_a_part_that_waits_cannot_shrink() -> None:
    pool = Pool(PART)
    queue = HashQueue(Sha256())
    part = _part(pool)
    _add(queue, part, BYTES[:10])
    assert not part.shrink()
    _hash(queue)
    assert not part.shrink()
    queue.release()
    assert part.shrink()
    part.release()


def test_what_is_forgotten_frees_its_part() -> None:
    pool = Pool(PART)
    queue = HashQueue(Sha256())
    part = _part(pool)
    _add(queue, part, BYTES[:10])
    part.release()
    queue.clear()
    assert (pool.lent, queue.waiting) == (0, 0)
    assert queue.digest.length == 0
    assert live_views() == 0


def test_an_error_of_on_free_keeps_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever raises it, all parts of the queue come back."""
    raised: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda caught: raised.append(caught.exc_value))

    def fails() -> None:
        raise ZeroDivisionError

    pool = Pool(2 * PART, fails)
    queue = HashQueue(Sha256())
    for part in [_part(pool), _part(pool)]:
        _add(queue, part, BYTES[:10])
        part.release()
    queue.clear()
    assert (pool.lent, live_views()) == (0, 0)
    assert [type(error) for error in raised] == [ZeroDivisionError] * 2


_FORGETFUL = """
from epoch._fastio import HashQueue, Pool, Sha256, fill

pool = Pool(4096)
for takes, empties in [(0, False), (5, False), (5, True)]:
    part = pool.lend(4096, 4096, 4096)
    queue = HashQueue(Sha256())
    queue.add(part, fill(part, b"0123456789"))
    queue.take(takes)
    if empties:
        queue.release()
        queue.clear()
    del queue
    part.release()
    del part
"""


def test_a_queue_that_is_not_emptied_is_reported() -> None:
    """In a process of its own, since its views are counted to the end."""
    done = subprocess.run(
        [sys.executable, "-c", _FORGETFUL], check=True, capture_output=True, text=True
    )
    reports = {line for line in done.stderr.splitlines() if line.startswith("AssertionError")}
    text = "AssertionError: a HashQueue is gone with {} views of parts"
    assert reports == {text.format(1), text.format(2)}


def test_what_is_being_hashed_is_neither_taken_nor_released() -> None:
    """The thread reads the very memory that would be lent again."""
    size = 64 << 20
    pool = Pool(size)
    part = pool.lend(size, size, size)
    assert part is not None
    queue = HashQueue(Sha256())
    queue.add(part, size)
    queue.take()
    thread = threading.Thread(target=queue.hash)
    thread.start()
    refused = False
    while thread.is_alive() and not refused:
        try:
            queue.take()  # nothing waits: it does nothing, or is refused
        except RuntimeError:
            refused = True
    assert refused
    for meddle in (queue.release, queue.hash, lambda: hash_together([HashQueue(Sha256()), queue])):
        with pytest.raises(RuntimeError, match="being hashed"):
            meddle()
    thread.join()
    queue.release()
    part.release()
    assert (pool.lent, queue.digest.length) == (0, size)


def test_no_queue_is_hashed_twice_at_once() -> None:
    queue = HashQueue(Sha256())
    with pytest.raises(RuntimeError, match="being hashed"):
        hash_together([queue, queue])
    queue.hash()


def test_more_than_fits_is_refused() -> None:
    pool = Pool(PART)
    queue = HashQueue(Sha256())
    part = _part(pool)
    with pytest.raises(ValueError, match="do not fit"):
        queue.add(part, PART + 1)
    part.release()
    with pytest.raises(BufferError):
        queue.add(part, 1)
    assert queue.waiting == 0


def test_bytes_come_while_another_thread_hashes() -> None:
    pool = Pool(64 * PART)
    queue = HashQueue(Sha256())
    expected = hashlib.sha256()
    parts = []
    worker = None
    for _ in range(64):
        part = _part(pool)
        parts.append(part)
        for _ in range(4):
            _add(queue, part, BYTES[: PART // 4])
            expected.update(BYTES[: PART // 4])
            if worker is not None and not worker.is_alive():
                worker.join()
                queue.release()
                worker = None
            if worker is None:
                queue.take()
                worker = threading.Thread(target=queue.hash)
                worker.start()
        part.release()
    assert worker is not None
    worker.join()
    _hash(queue)
    queue.release()
    assert queue.digest.hexdigest() == expected.hexdigest()
    assert pool.lent == 0


def test_time_is_counted() -> None:
    pool = Pool(16 * PART)
    queues = [HashQueue(Sha256()) for _ in range(16)]
    parts = [_part(pool) for _ in queues]
    for queue, part in zip(queues, parts, strict=True):
        _add(queue, part, BYTES)
    before = hash_seconds()
    _hash_together(queues)
    assert 16 * PART / 20e9 < hash_seconds() - before < 16 * PART / 50e6
    for queue, part in zip(queues, parts, strict=True):
        queue.release()
        part.release()


def test_how_many_lanes() -> None:
    assert lanes_worthwhile() in (0, 7)
    hash_together([])


@pytest.mark.slow
def test_millions_of_random_splits() -> None:
    """Sixteen messages at a time, in random pieces, against hashlib."""
    dice = random.Random(20)
    pool = Pool(16 * PART)
    cases = 0
    while cases < 2_000_000:
        queues = [HashQueue(Sha256()) for _ in range(16)]
        theirs = [hashlib.sha256() for _ in queues]
        parts = [_part(pool) for _ in queues]
        for _ in range(20):
            for queue, part, their in zip(queues, parts, theirs, strict=True):
                start = dice.randrange(4096)
                data = BYTES[start : start + dice.randrange(260)]
                _add(queue, part, data)
                their.update(data)
                cases += 1
            _hash_together(queues)
            for queue in queues:
                queue.release()
        for queue, part, their in zip(queues, parts, theirs, strict=True):
            assert queue.digest.digest() == their.digest()
            part.release()


@pytest.mark.parametrize("order", [1, -1])
def test_parts_that_lie_side_by_side_are_each_held(order: int) -> None:
    """The kernel puts mappings next to one another: the bytes of the next part may begin where
    those of the last one end, and yet they are its own."""
    pool = Pool(8 * PART)
    queue = HashQueue(Sha256())
    expected = hashlib.sha256()
    parts = [_part(pool) for _ in range(8)]
    for part in parts[::order]:
        _add(queue, part, BYTES)
        expected.update(BYTES)
    assert [part.views for part in parts] == [1] * 8
    for part in parts:
        part.release()
    _hash(queue)
    queue.release()
    assert pool.lent == 0
    assert queue.digest.hexdigest() == expected.hexdigest()


@pytest.mark.parametrize("together", [False, True])
def test_what_waits_is_taken_in_slices(together: bool) -> None:
    """Slices that end within a block, at the end of a part, and beyond it; more comes meanwhile."""
    dice = random.Random(6)
    pool = Pool(36 * PART)
    queues = [HashQueue(Sha256()) for _ in range(9 if together else 1)]
    expected = [hashlib.sha256() for _ in queues]
    for turn in range(60):
        for queue, theirs in zip(queues, expected, strict=True):
            if turn < 4:
                part = _part(pool)
                for _ in range(dice.randrange(1, 4)):
                    data = BYTES[: dice.randrange(1, 3000)]
                    _add(queue, part, data)
                    theirs.update(data)
                part.release()
            before = queue.waiting
            most = dice.choice([0, 1, 64, 2999, 5000])
            queue.take(most)
            assert (queue.waiting, queue.held) == (before - min(most, before), min(most, before))
            if not together:
                queue.hash()
        hash_together(queues)
        for queue in queues:
            queue.release()
    _hash_together(queues)
    for queue in queues:
        queue.release()
    assert [q.digest.hexdigest() for q in queues] == [theirs.hexdigest() for theirs in expected]
    assert (pool.lent, live_views()) == (0, 0)


def test_what_is_taken_twice_is_hashed_once() -> None:
    pool = Pool(PART)
    queue = HashQueue(Sha256())
    part = _part(pool)
    _add(queue, part, BYTES[:100])
    queue.take(30)
    queue.take(30)
    queue.hash()
    queue.hash()
    hash_together([queue])
    queue.take()
    queue.hash()
    assert queue.digest.hexdigest() == hashlib.sha256(BYTES[:100]).hexdigest()
    queue.release()
    part.release()


def test_forgetting_leaves_what_was_taken() -> None:
    pool = Pool(PART)
    queue = HashQueue(Sha256())
    part = _part(pool)
    _add(queue, part, BYTES[:100])
    queue.take(30)
    queue.clear()
    queue.hash()
    part.release()
    assert queue.digest.hexdigest() == hashlib.sha256(BYTES[:30]).hexdigest()
    assert (queue.waiting, queue.held, pool.lent) == (0, 30, PART)
    queue.release()
    assert (pool.lent, live_views()) == (0, 0)
