"""Part buffers and their pool: what is exported, when memory may be lent again, the budget."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from epoch._fastio import PartBuffer, Pool, Sha256, fill, live_buffers, live_views

PAGE = 4096
HUGE = 2 * 1024 * 1024


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    gc.collect()
    before = live_buffers(), live_views()
    yield
    gc.collect()
    assert (live_buffers(), live_views()) == before


def lend(pool: Pool, size: int, capacity: int | None = None, window: int = 1 << 40) -> PartBuffer:
    """A part that the pool must have room for."""
    part = pool.lend(size, size if capacity is None else capacity, window)
    assert part is not None
    return part


class _PyBuffer(ctypes.Structure):
    """`Py_buffer` of CPython's C API: Python code cannot hold a writable export of a part."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_void_p * 16),
    )


@contextmanager
def receiving(part: PartBuffer) -> Iterator[tuple[int, int]]:
    """Hold the part's tail as the kernel's receive does; its address and length."""
    view = _PyBuffer()
    writable = 1  # PyBUF_WRITABLE
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(part), ctypes.byref(view), writable)
    try:
        yield view.buf, view.len
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


def address(part: PartBuffer) -> int:
    """Where the part's first unfilled byte lies."""
    with receiving(part) as (at, _):
        return at


# ---- one part


def test_the_writable_export_is_the_tail_within_window_and_capacity() -> None:
    part = lend(Pool(PAGE), PAGE, capacity=10, window=4)
    assert (part.capacity, part.filled, part.room, part.window, len(part)) == (10, 0, 10, 4, 4)
    assert fill(part, b"abcdefgh") == 4  # the window
    part.advance(4)
    assert fill(part, b"efgh") == 4
    assert len(part) == 4
    part.advance(3)  # the rest of what was written is written over
    assert fill(part, b"hij") == 3  # the capacity
    part.advance(3)
    assert (part.filled, part.room, len(part)) == (10, 0, 0)
    assert bytes(part) == b"abcdefghij"
    assert fill(part, b"k") == 0


def test_the_window_can_be_changed() -> None:
    part = lend(Pool(PAGE), PAGE, window=100)
    part.window = 3
    assert fill(part, b"abcdef") == 3
    part.window = 1 << 40
    assert fill(part, bytes(2 * PAGE)) == PAGE


@pytest.mark.parametrize("window", [0, -1, -(1 << 40)])
def test_a_window_below_one_exports_nothing(window: int) -> None:
    part = lend(Pool(PAGE), PAGE)
    part.window = window
    assert fill(part, b"abc") == 0


def test_what_is_filled_is_exported_read_only() -> None:
    part = lend(Pool(PAGE), PAGE)
    part.advance(fill(part, b"body"))
    with memoryview(part) as view:
        assert view.readonly
        assert (view.nbytes, view.format, view.ndim) == (4, "B", 1)
        assert view.c_contiguous
        assert view.tobytes() == b"body"
        with pytest.raises(TypeError):
            view[0] = 1
    with memoryview(part) as view:
        part.advance(fill(part, b"!"))
        assert view.tobytes() == b"body"  # a view does not grow
    assert bytes(part) == b"body!"


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, 3 * PAGE, HUGE - PAGE, HUGE, HUGE + 1])
def test_memory_is_aligned_and_all_of_it_is_there(size: int) -> None:
    pool = Pool(2 * HUGE)
    part = lend(pool, size)
    rounded = -(-size // PAGE) * PAGE
    assert pool.lent == rounded
    assert address(part) % (HUGE if rounded >= HUGE else PAGE) == 0
    pattern = bytes(range(251)) * (size // 251 + 1)
    part.advance(fill(part, pattern))
    assert part.room == 0
    assert bytes(part) == pattern[:size]


@pytest.mark.parametrize("count", [-1, 11, 1 << 62])
def test_advancing_beyond_the_room_is_refused(count: int) -> None:
    part = lend(Pool(PAGE), PAGE, capacity=10)
    digest = Sha256()
    with pytest.raises(ValueError, match="do not fit"):
        part.advance(count)
    with pytest.raises(ValueError, match="do not fit"):
        part.advance_hashed(count, digest)
    assert (part.filled, digest.length) == (0, 0)


def test_a_digest_is_needed_to_hash() -> None:
    part = lend(Pool(PAGE), PAGE)
    with pytest.raises(TypeError):
        part.advance_hashed(1, None)  # type: ignore[arg-type]


def test_views_are_counted() -> None:
    part = lend(Pool(PAGE), PAGE)
    before = live_views()
    part.advance(fill(part, b"body"))
    assert part.views == 0
    first = memoryview(part)
    second = first[1:3]  # shares the export
    third = memoryview(part)
    assert (part.views, live_views()) == (2, before + 2)
    first.release()
    assert part.views == 2
    second.release()
    third.release()
    assert (part.views, live_views()) == (0, before)


# ---- giving back


def test_memory_is_not_lent_again_while_a_view_is_out() -> None:
    freed: list[int] = []
    pool = Pool(PAGE, lambda: freed.append(pool.lent))
    part = lend(pool, PAGE)
    part.advance(fill(part, b"sent"))
    view = memoryview(part)
    part.release()
    part.release()
    assert (pool.lent, pool.lent_count, pool.kept, freed) == (PAGE, 1, 0, [])
    assert pool.lend(PAGE, PAGE, PAGE) is None
    assert view.tobytes() == b"sent"
    view.release()
    assert (pool.lent, pool.lent_count, pool.kept, freed) == (0, 0, PAGE, [0])
    part.release()
    assert freed == [0]


def test_memory_that_is_being_received_into_is_not_lent_again() -> None:
    pool = Pool(PAGE)
    part = lend(pool, PAGE)
    with receiving(part) as (_, length):
        assert (part.views, length) == (1, PAGE)
        part.release()
        assert pool.lent == PAGE
        assert pool.lend(1, 1, 1) is None
    assert pool.lent == 0


def test_a_part_that_is_given_back_is_of_no_further_use() -> None:
    part = lend(Pool(PAGE), PAGE)
    part.release()
    part.release()
    with pytest.raises(BufferError):
        memoryview(part)
    with pytest.raises(BufferError):
        fill(part, b"x")
    with pytest.raises(BufferError):
        part.advance(0)
    with pytest.raises(BufferError):
        part.advance_hashed(0, Sha256())


def test_a_forgotten_release_gives_the_memory_back() -> None:
    freed: list[bool] = []
    pool = Pool(PAGE, lambda: freed.append(True))
    part = lend(pool, PAGE)
    view = memoryview(part)
    del part
    gc.collect()
    assert (pool.lent, freed) == (PAGE, [])  # the view still holds it
    del view
    assert (pool.lent, pool.kept, freed) == (0, PAGE, [])


def test_a_part_forgotten_in_a_cycle_gives_its_memory_back() -> None:
    """As an upload that failed in an unforeseen way: it refers to its part and, by way of the
    pool's callback, the part to it."""

    class Upload:
        def __init__(self) -> None:
            self.pool = Pool(PAGE, self.freed)
            self.part: PartBuffer | None = lend(self.pool, PAGE)

        def freed(self) -> None: ...

    before = live_buffers()
    upload = Upload()
    assert live_buffers() == before + 1
    del upload
    gc.collect()
    assert live_buffers() == before


def test_a_pool_outlives_its_name_while_it_has_lent() -> None:
    before = live_buffers()
    part = lend(Pool(PAGE), PAGE)
    gc.collect()
    assert fill(part, b"still there") == 11
    del part
    assert live_buffers() == before


# ---- lent memory that is not needed now


def test_a_part_can_give_back_what_is_behind_its_content() -> None:
    freed: list[bool] = []
    pool = Pool(10 * PAGE, lambda: freed.append(True))
    part = lend(pool, 10 * PAGE)
    part.advance(fill(part, b"x" * (PAGE + 1)))
    assert not part.shrunk
    assert part.shrink()
    assert (part.shrunk, pool.lent, pool.kept, freed) == (True, 2 * PAGE, 0, [True])
    assert (part.capacity, part.room) == (10 * PAGE, 9 * PAGE - 1)
    assert bytes(part) == b"x" * (PAGE + 1)
    assert fill(part, bytes(10 * PAGE)) == PAGE - 1  # no more than is mapped
    with pytest.raises(ValueError, match="do not fit"):
        part.advance(PAGE)
    assert not part.shrink()
    assert part.grow()
    assert (part.shrunk, pool.lent) == (False, 10 * PAGE)
    assert fill(part, bytes(10 * PAGE)) == 9 * PAGE - 1
    assert bytes(part) == b"x" * (PAGE + 1)
    assert part.grow()  # nothing to undo
    part.release()
    assert (pool.lent, pool.kept) == (0, 10 * PAGE)


def test_growing_waits_for_room_in_the_budget() -> None:
    pool = Pool(4 * PAGE)
    part = lend(pool, 4 * PAGE)
    assert part.shrink()
    other = lend(pool, PAGE)
    assert not part.grow()
    assert (part.shrunk, pool.lent) == (True, 2 * PAGE)
    other.release()
    assert pool.kept == PAGE
    assert part.grow()  # what was kept made way
    assert (pool.lent, pool.kept) == (4 * PAGE, 0)


def test_a_part_that_is_being_used_keeps_its_memory() -> None:
    part = lend(Pool(4 * PAGE), 4 * PAGE)
    with receiving(part):
        assert not part.shrink()
    assert part.shrink()
    with receiving(part), pytest.raises(BufferError):
        part.grow()
    part.release()
    assert not part.shrink()
    with pytest.raises(BufferError):
        part.grow()


@pytest.mark.parametrize("forget", [False, True])
def test_a_shrunk_part_is_not_kept(forget: bool) -> None:
    before = live_buffers()
    pool = Pool(4 * PAGE)
    part = lend(pool, 4 * PAGE)
    assert part.shrink()
    if not forget:
        part.release()
    del part
    assert (pool.lent, pool.kept, pool.lent_count, live_buffers()) == (0, 0, 0, before)


def test_a_part_can_begin_small() -> None:
    pool = Pool(4 * HUGE)
    part = pool.lend(2 * HUGE, 2 * HUGE, 1 << 40, 10)
    assert part is not None
    assert (part.mapped, part.shrunk, part.room, pool.lent) == (PAGE, True, 2 * HUGE, PAGE)
    pattern = bytes(range(251)) * 20_000
    part.advance(fill(part, pattern))
    assert (part.filled, len(part)) == (PAGE, 0)
    assert part.grow(PAGE + 1)
    assert (part.mapped, pool.lent) == (2 * PAGE, 2 * PAGE)
    assert part.grow(10)  # it never has less
    assert part.mapped == 2 * PAGE
    part.advance(fill(part, pattern[PAGE:]))
    assert part.grow(1 << 62)
    assert (part.mapped, part.shrunk) == (2 * HUGE, False)
    part.advance(fill(part, pattern[2 * PAGE :]))
    assert bytes(part) == pattern[: 2 * HUGE]
    part.release()
    assert pool.lent == 0


def test_what_grew_is_kept_only_where_it_is_as_good_as_new() -> None:
    """A mapping that was moved is not aligned to huge pages."""
    pool = Pool(16 * HUGE)
    parts = [pool.lend(HUGE, HUGE, HUGE, 1) for _ in range(8)]
    for part in parts:
        assert part is not None
        assert part.grow()
        aligned = address(part) % HUGE == 0
        kept = pool.kept
        part.release()
        assert pool.kept == kept + (HUGE if aligned else 0)
    small = pool.lend(HUGE, HUGE, HUGE, 1)
    assert small is not None
    kept = pool.kept
    small.release()
    assert pool.kept == kept + PAGE


@pytest.mark.parametrize("now", [0, PAGE + 1, 1 << 62])
def test_what_a_part_has_at_first_is_part_of_it(now: int) -> None:
    pool = Pool(4 * PAGE)
    with pytest.raises(ValueError, match="part buffer"):
        pool.lend(PAGE, PAGE, PAGE, now)
    assert (pool.lent, pool.lent_count) == (0, 0)


def test_only_what_is_in_the_way_is_unmapped() -> None:
    """All of the free memory at once would be many milliseconds in one call."""
    pool = Pool(64 * PAGE)
    for part in [lend(pool, PAGE) for _ in range(64)]:
        part.release()
    before = live_buffers()
    part = lend(pool, 3 * PAGE)
    assert (pool.kept, live_buffers()) == (61 * PAGE, before - 2)
    part.release()


def test_shrinking_and_growing_huge_pages() -> None:
    pool = Pool(4 * HUGE)
    part = lend(pool, 2 * HUGE)
    pattern = bytes(range(251)) * 20_000
    part.advance(fill(part, pattern[: HUGE + 5]))
    for _ in range(3):
        assert part.shrink()
        assert pool.lent == HUGE + PAGE
        assert part.grow()
        assert bytes(part) == pattern[: HUGE + 5]
    part.advance(fill(part, pattern[HUGE + 5 :]))
    assert part.room == 0
    assert bytes(part) == pattern[: 2 * HUGE]


# ---- the pool


def test_the_budget_is_never_exceeded() -> None:
    pool = Pool(3 * PAGE)
    assert (pool.budget, pool.lent, pool.kept, pool.lent_count) == (3 * PAGE, 0, 0, 0)
    parts = [lend(pool, PAGE) for _ in range(3)]
    assert (pool.lent, pool.lent_count) == (3 * PAGE, 3)
    assert pool.lend(1, 1, 1) is None
    parts.pop().release()
    assert pool.lend(PAGE + 1, 1, 1) is None
    assert pool.lend(PAGE, 1, 1) is not None


def test_nothing_is_mapped_before_it_is_lent() -> None:
    before = live_buffers()
    pool = Pool(1 << 50)
    assert live_buffers() == before
    part = lend(pool, PAGE)
    assert live_buffers() == before + 1
    part.release()
    assert (live_buffers(), pool.kept) == (before + 1, PAGE)


def test_the_hottest_memory_is_reused_first() -> None:
    pool = Pool(8 * PAGE)
    parts = [lend(pool, PAGE) for _ in range(3)]
    addresses = [address(part) for part in parts]
    gc.collect()
    for part in parts:
        part.release()
    assert [address(lend(pool, PAGE)) for _ in range(3)] == [addresses[2]] * 3
    held = [lend(pool, PAGE) for _ in range(3)]
    assert [address(part) for part in held] == addresses[::-1]


def test_memory_kept_in_another_size_makes_way() -> None:
    before = live_buffers()
    pool = Pool(4 * PAGE)
    for part in [lend(pool, PAGE) for _ in range(4)]:
        part.release()
    assert (pool.kept, live_buffers()) == (4 * PAGE, before + 4)
    large = lend(pool, 4 * PAGE)
    assert (pool.kept, pool.lent, live_buffers()) == (0, 4 * PAGE, before + 1)
    large.release()


def test_trim_returns_the_free_memory_only() -> None:
    before = live_buffers()
    pool = Pool(4 * PAGE)
    kept, lent = lend(pool, PAGE), lend(pool, PAGE)
    kept.release()
    pool.trim()
    assert (pool.kept, pool.lent, live_buffers()) == (0, PAGE, before + 1)
    assert fill(lent, b"x") == 1
    pool.trim()
    lent.release()
    pool.trim()
    assert (pool.kept, pool.lent, live_buffers()) == (0, 0, before)


@pytest.mark.parametrize(
    ("size", "capacity", "window"),
    [
        (0, 0, 1),
        (PAGE, 0, 1),
        (PAGE, -1, 1),
        (PAGE, PAGE + 1, 1),
        (PAGE, 1, 0),
        (PAGE, 1, -1),
        (-1, -1, 1),
        (2 * PAGE, 1, 1),  # more than the budget
        (PAGE + 1, 1, 1),  # more than the budget when rounded up
        ((1 << 63) - 1, 1, 1),
    ],
)
def test_what_can_never_be_lent_is_refused(size: int, capacity: int, window: int) -> None:
    pool = Pool(PAGE)
    with pytest.raises(ValueError, match=r"part buffer|never"):
        pool.lend(size, capacity, window)
    assert (pool.lent, pool.lent_count) == (0, 0)


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1])
def test_what_the_kernel_refuses_is_a_memory_error(size: int) -> None:
    pool = Pool((1 << 63) - 1)
    with pytest.raises((MemoryError, ValueError)):
        pool.lend(size, 1, 1)
    assert (pool.lent, pool.lent_count) == (0, 0)


def test_fill_needs_writable_memory() -> None:
    with pytest.raises(BufferError):
        fill(b"read-only", b"x")
    target = bytearray(4)
    assert fill(target, b"abcdef") == 4
    assert fill(target, b"") == 0
    assert target == b"abcd"
