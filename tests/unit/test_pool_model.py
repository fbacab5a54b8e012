"""The pool of part buffers against a model of it, whatever is done in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from epoch._fastio import PartBuffer, Pool, fill

PAGE = 4096


class PoolModel(RuleBasedStateMachine):
    """Parts are lent, filled, viewed, given back and forgotten in any order; a dict knows what
    each should hold, and the pool's figures are sums over it."""

    BUDGET = 8 * PAGE

    def __init__(self) -> None:
        super().__init__()
        self.frees = 0
        self.pool = Pool(self.BUDGET, self._on_free)
        self.parts: dict[int, PartBuffer] = {}
        self.sizes: dict[int, int] = {}  # bytes mapped, of all whose memory is out
        self.full: dict[int, int] = {}  # the most bytes that will be mapped
        self.contents: dict[int, bytes] = {}
        self.views: dict[int, list[tuple[memoryview, bytes]]] = {}
        self.released: set[int] = set()
        self.next = 0
        self.expected_frees = 0

    def _on_free(self) -> None:
        self.frees += 1

    def _gone(self, number: int) -> None:
        """The memory comes back if nothing holds the part."""
        if number not in self.parts and not self.views[number]:
            del self.sizes[number], self.contents[number], self.views[number]
            if number in self.released:  # of what was forgotten nobody is told
                self.expected_frees += 1

    @rule(
        pages=st.integers(1, 9),
        short=st.integers(0, 100),
        window=st.integers(1, 2 * PAGE),
        now=st.integers(1, 9),
    )
    def lend(self, pages: int, short: int, window: int, now: int) -> None:
        size = pages * PAGE - short
        at_first = size if now >= pages else now * PAGE - short
        if pages * PAGE > self.BUDGET:
            with pytest.raises(ValueError, match="never"):
                self.pool.lend(size, size, window, at_first)
            return
        part = self.pool.lend(size, size, window, at_first)
        mapped = min(now, pages) * PAGE
        assert (part is not None) == (sum(self.sizes.values()) + mapped <= self.BUDGET)
        if part is not None:
            self.parts[self.next] = part
            self.sizes[self.next] = mapped
            self.full[self.next] = pages * PAGE
            self.contents[self.next] = b""
            self.views[self.next] = []
            self.next += 1

    @precondition(lambda self: self.parts)
    @rule(data=st.data(), pattern=st.binary(min_size=1, max_size=9), times=st.integers(1, 900))
    def write(self, data: st.DataObject, pattern: bytes, times: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.parts)))
        part = self.parts[number]
        wanted = pattern * times
        taken = fill(part, wanted)
        mapped = self.sizes[number] - len(self.contents[number])
        assert taken == min(len(wanted), part.window, part.room, mapped)
        part.advance(taken)
        self.contents[number] += wanted[:taken]

    @precondition(lambda self: self.parts)
    @rule(data=st.data())
    def view(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.parts)))
        self.views[number].append((memoryview(self.parts[number]), self.contents[number]))

    @precondition(lambda self: any(self.views.values()))
    @rule(data=st.data())
    def release_view(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(n for n, views in self.views.items() if views)))
        view, _ = self.views[number].pop(
            data.draw(st.integers(0, len(self.views[number]) - 1), label="view")
        )
        view.release()
        self._gone(number)

    @precondition(lambda self: self.parts)
    @rule(data=st.data(), explicitly=st.booleans())
    def give_back(self, data: st.DataObject, explicitly: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.parts)))
        part = self.parts.pop(number)
        if explicitly:
            self.released.add(number)
            part.release()
        del part
        self._gone(number)

    @precondition(lambda self: self.parts)
    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.parts)))
        needed = max(PAGE, -(-len(self.contents[number]) // PAGE) * PAGE)
        shrinks = not self.views[number] and needed < self.sizes[number]
        assert self.parts[number].shrink() is shrinks
        if shrinks:
            self.sizes[number] = needed
            self.expected_frees += 1

    @precondition(lambda self: self.parts)
    @rule(data=st.data(), pages=st.integers(0, 9), short=st.integers(0, 100))
    def grow(self, data: st.DataObject, pages: int, short: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.parts)))
        part = self.parts[number]
        size = max(0, pages * PAGE - short)
        if self.views[number]:
            with pytest.raises(BufferError):
                part.grow(size)
            return
        wanted = max(self.sizes[number], min(self.full[number], pages * PAGE))
        fits = sum(self.sizes.values()) + wanted - self.sizes[number] <= self.BUDGET
        assert part.grow(size) is fits
        if fits:
            self.sizes[number] = wanted

    @rule()
    def trim(self) -> None:
        self.pool.trim()
        assert self.pool.kept == 0

    @invariant()
    def figures(self) -> None:
        assert self.pool.lent == sum(self.sizes.values())
        assert self.pool.lent_count == len(self.sizes)
        assert self.pool.lent + self.pool.kept <= self.BUDGET
        assert self.frees == self.expected_frees
        for number, part in self.parts.items():
            assert part.filled == len(self.contents[number])
            assert part.views == len(self.views[number])
            assert part.mapped == self.sizes[number]
            assert part.shrunk is (self.sizes[number] < self.full[number])

    @invariant()
    def contents_are_what_was_written(self) -> None:
        """Whatever was lent again meanwhile: no two parts share a byte."""
        for number, part in self.parts.items():
            assert bytes(part) == self.contents[number]
        for views in self.views.values():
            for view, content in views:
                assert view.tobytes() == content

    def teardown(self) -> None:
        self.parts.clear()
        for views in self.views.values():
            for view, _ in views:
                view.release()
        self.pool.trim()
        assert (self.pool.lent, self.pool.kept) == (0, 0)


PoolModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolModel = PoolModel.TestCase
