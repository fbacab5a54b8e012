"""What one party of an exploration does: its calls of the store, one after the other, learnt by
running it again and again with the answers that it is to get."""

from __future__ import annotations

import asyncio
import heapq
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Final, cast

from epoch.store.base import ObjectInfo, Store
from tests.tools.coroutines import Describer, Moment
from tests.tools.memory import etag_of
from tests.tools.steps import WRITES, Call, Keys, Touches

NOW: Final = 1_800_000_000.0
"""When an exploration takes place, in Unix seconds. This clock stands still."""

TOKEN: Final = "token-"
"""What the random names that a party makes up begin with."""

FRESH: Final = [b"fresh %d" % number for number in range(64)]
"""Contents for objects that are to hold a random token. All that anybody can do with such is to see
whether two are the same, so the first that nobody knows of is as good as any other."""

_FRESH: Final[dict[object, int]] = {
    known: number for number, token in enumerate(FRESH) for known in (token, etag_of(token))
}

Act = Callable[[Store], Awaitable[object]]
"""What a party does. It must not depend on anything but the store, and return a value that can be
hashed."""

Path = tuple[int, ...]


class _Lane:
    """A task of a party, by its place among the tasks that its parent has started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.children = 0


class _Loop(asyncio.AbstractEventLoop):
    """Runs callbacks in order. Has no sockets and no clock: `advance` fires the next timer."""

    def __init__(self) -> None:
        self.now = Moment(0.0)
        self.failures: list[dict[str, Any]] = []
        self.lanes: dict[asyncio.Task[Any], _Lane] = {}
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[asyncio.TimerHandle] = []

    def time(self) -> Moment:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: Any = None, context: Context | None = None, **_: Any
    ) -> asyncio.Task[Any]:
        parent = asyncio.current_task(self)
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        above = self.lanes[parent] if parent is not None else _Lane(())
        above.children += 1
        self.lanes[task] = _Lane((*above.path, above.children))
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def run(self) -> None:
        """Run what is ready."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(before)

    def sleeps(self) -> bool:
        """Whether any timer is set."""
        while self._timers and self._timers[0].cancelled():
            heapq.heappop(self._timers)
        return bool(self._timers)

    def timers(self) -> tuple[float, ...]:
        """The seconds in which the timers that are set will fire."""
        waits = [one.when() - self.now for one in self._timers if not one.cancelled()]
        return tuple(sorted(round(wait, 6) for wait in waits))

    def advance(self) -> None:
        """Let the time of the next timer come."""
        if self.sleeps():
            timer = heapq.heappop(self._timers)
            self.now = Moment(max(self.now, timer.when()))
            self._ready.append(timer)
        self.run()


class _Asking:
    """The store of one run of a party: each call waits for the answer that it is given."""

    description = "asking"
    min_part_size = 1

    def __init__(self, loop: _Loop, page: int) -> None:
        self.pending: list[tuple[Call, asyncio.Future[Any], Path]] = []
        self._loop = loop
        self._page = page

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: Any) -> Any:
            return await self._ask(name, *arguments)

        return call

    async def _ask(self, name: str, *arguments: Any) -> Any:
        call = Call(name, tuple(bytes(a) if _is_buffer(a) else a for a in arguments))
        future = self._loop.create_future()
        task = asyncio.current_task(self._loop)
        assert task is not None
        self.pending.append((call, future, self._loop.lanes[task].path))
        self.pending.sort(key=lambda one: one[2])
        return await future

    async def make_durable(self, keys: Sequence[str]) -> None:
        """No step: nobody can see whether an object outlives a power cut."""

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """In pages, since no store reads a long list in one moment."""
        while True:
            infos = await self._ask("list", prefix, after, self._page)
            for info in infos:
                yield info
            if len(infos) < self._page:
                return
            after = infos[-1].key

    async def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for info in await self._ask("list_folder", prefix):
            yield info

    async def list_multiparts(self, prefix: str) -> AsyncIterator[Any]:
        for upload in await self._ask("list_multiparts", prefix):
            yield upload


def _is_buffer(value: object) -> bool:
    return isinstance(value, bytes | bytearray | memoryview)


_Step = tuple[int, Any]
"""Which of the pending calls (by its place) got which result."""


_Lanes = dict[Path, tuple[tuple[Call | None, Any], ...]]
"""For each task of a party, its calls with their results."""


class Run:
    """A party at work, up to some point."""

    def __init__(self, name: str, act: Act, page: int) -> None:
        self.loop = _Loop()  # type: ignore[abstract] # it has no sockets
        self.store = _Asking(self.loop, page)
        self._name = name
        with self._faked():
            self.task = self.loop.create_task(_await(act(cast(Store, self.store))))
            self.loop.run()

    def step(self, step: _Step) -> None:
        place, result = step
        with self._faked():
            if place == len(self.store.pending):
                self.loop.advance()
            else:
                _, future, _ = self.store.pending.pop(place)
                future.set_result(result)
                self.loop.run()

    def description(self) -> tuple[object, frozenset[int]]:
        """What tells this run's future from another's, but for what its calls will get; and the
        fresh tokens that it knows of."""
        given: dict[int, object] = {
            id(self.loop): "loop",
            id(self.store): "store",
            id(self.task): "main",
        }
        for _, future, path in self.store.pending:
            given[id(future)] = ("answer", path)
        describer = Describer(given, self.loop.now, _FRESH)
        tasks = sorted(
            (lane.path, task) for task, lane in self.loop.lanes.items() if not task.done()
        )
        described = tuple((path, describer.describe(task.get_coro())) for path, task in tasks)
        return (self.loop.timers(), described), frozenset(describer.held)

    def close(self) -> None:
        with self._faked():
            while not self.task.done():
                self.task.cancel()
                self.loop.run()
                for _, future, _ in self.store.pending:
                    future.cancel()
                self.store.pending.clear()
                self.loop.run()
            if not self.task.cancelled():
                self.task.exception()

    @contextmanager
    def _faked(self) -> Iterator[None]:
        """Clocks that stand still, and random names that are the same in each run: every task has
        its own one, which it takes again and again. Where one becomes the content of an object, the
        exploration puts a fresh one in its place."""

        def token_hex(nbytes: int | None = None) -> str:
            task = asyncio.current_task(self.loop)
            assert task is not None
            return f"{TOKEN}{self._name}-{'.'.join(map(str, self.loop.lanes[task].path))}"

        before = time.time, time.monotonic, time.perf_counter, secrets.token_hex
        time.time = lambda: NOW
        time.monotonic = time.perf_counter = lambda: self.loop.now
        secrets.token_hex = token_hex
        try:
            yield
        finally:
            time.time, time.monotonic, time.perf_counter, secrets.token_hex = before


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable


class Node:
    """How far a party is: what it wants to do, or what it has returned."""

    __slots__ = (
        "calls",
        "done",
        "held",
        "history",
        "lanes",
        "looks",
        "next",
        "number",
        "parents",
        "returned",
        "sleeps",
        "touches",
        "wrote",
    )

    def __init__(self, number: int, history: tuple[_Step, ...], lanes: _Lanes, run: Run) -> None:
        self.number = number
        self.held: frozenset[int] = frozenset()
        self.history = history
        self.lanes = lanes
        self.calls = tuple(call for call, _, _ in run.store.pending)
        self.done = run.task.done()
        self.returned = run.task.result() if self.done else None
        self.sleeps = not self.done and not self.calls and run.loop.sleeps()
        self.looks = _looks(run, lanes) if self.sleeps else []
        self.next: dict[_Step, Node] = {}
        self.parents: list[Node] = []
        self.touches = Touches(0, 0, 0)
        self.wrote = False
        if not (self.done or self.calls or self.sleeps):
            raise AssertionError(f"a party waits for nothing: {history}")


def _looks(run: Run, lanes: _Lanes) -> list[tuple[Call, Any]]:
    """The last reads of the tasks that sleep, with their results."""
    alive = [lane.path for task, lane in run.loop.lanes.items() if not task.done()]
    parents = {path[:-1] for path in alive}
    last = [lanes[path][-1] for path in alive if path not in parents and path in lanes]
    return [(call, result) for call, result in last if call and call.name not in WRITES]


class Party:
    """What one party does, learnt as far as it was asked.

    Calls of its own that are under way at once are taken to be about different keys, and to do
    without each other's results until they are awaited together, as `for_each` and `both` have it:
    then their order is no difference.
    """

    def __init__(self, name: str, act: Act, page: int, keys: Keys) -> None:
        self.name = name
        self.learnt = False
        """Whether anything was learnt since this was set back."""
        self._act = act
        self._page = page
        self._keys = keys
        self._run = Run(name, act, page)
        self._at: tuple[_Step, ...] = ()
        self._nodes: dict[object, Node] = {}
        self.start = Node(0, (), {}, self._run)
        self._touch(self.start, self._keys.touches(self.start.calls))

    @property
    def size(self) -> int:
        """Moments of the party that were met."""
        return len(self._nodes)

    def after(self, node: Node, step: _Step) -> Node:
        """Where the party is once it got this result."""
        found = node.next.get(step)
        if found is None:
            found = node.next[step] = self._learn(node, step)
            found.parents.append(node)
            self._touch(node, found.touches)
        return found

    def _touch(self, node: Node, touches: Touches) -> None:
        """Note what a party can touch from here on, and so before."""
        pending = [node]
        while pending:
            one = pending.pop()
            joined = one.touches.joined(touches)
            if joined != one.touches:
                one.touches = joined
                self.learnt = True
                pending.extend(one.parents)

    def _learn(self, node: Node, step: _Step) -> Node:
        if self._at != node.history:
            self._run.close()
            self._run = Run(self.name, self._act, self._page)
            for earlier in node.history:
                self._run.step(earlier)
        place, result = step
        slept = place == len(node.calls)
        lane: Path = () if slept else self._run.store.pending[place][2]
        call = None if slept else node.calls[place]
        lanes = {**node.lanes, lane: (*node.lanes.get(lane, ()), (call, result))}
        self._run.step(step)
        self._at = (*node.history, step)
        new = Node(len(self._nodes) + 1, self._at, lanes, self._run)
        key: object = new.returned
        if not new.done:
            described, new.held = self._run.description()
            key = described, *new.looks
        known = self._nodes.setdefault(key, new)
        wrote = call is not None and call.name in WRITES
        known.wrote |= wrote
        if known is new:
            self._touch(new, self._keys.touches(new.calls))
        return known

    def close(self) -> None:
        self._run.close()
