"""Random schedules of fast, slow, silent and dying clients over tiny budgets.

The real sinks, loans and budget, on a loop whose clock is the test's own: minutes pass in moments.
Every fast client must finish, whatever the others do; memory never exceeds the budget; all of it is
given back.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

import pytest

from epoch._fastio import PartBuffer, Sha256, fill, live_views
from epoch.config import UploadSettings
from epoch.errors import RegistryError
from epoch.store.base import Store
from epoch.upload.budget import LOOK_SECONDS, WAIT_SECONDS, WAIT_SECONDS_MIDWAY, Budget
from epoch.upload.context import BodyPlan, UploadContext
from epoch.upload.hashing import Hashing
from epoch.upload.sink import PartSink

KIB: Final = 1024
PART: Final = 512 * KIB
BYTES: Final = random.Random(8).randbytes(PART)
LIMIT: Final = 1 << 40


class _Timeless(selectors.DefaultSelector):
    """Does not wait: it moves the clock to where the loop would have woken up."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


def simulate(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a loop whose time passes only while there is nothing to do."""
    selector = _Timeless()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        loop.run_until_complete(asyncio.wait_for(work, 3600))
        assert not asyncio.all_tasks(loop)
    finally:
        loop.close()


def tiny(parts: float) -> Budget:
    """A budget of so many parts, which are smaller than settings allow."""
    settings = UploadSettings()
    for name, value in (
        ("part_size", PART),
        ("budget", int(parts * PART)),
        ("receive_window", PART),
    ):
        object.__setattr__(settings, name, value)
    return Budget(settings)


class Server:
    """What all clients share."""

    def __init__(self, parts: float, lanes: int = 0) -> None:
        self.budget = tiny(parts)
        self.hashing = Hashing(lanes=lanes)
        self.context = UploadContext(cast(Store, None), UploadSettings(), self.budget, self.hashing)
        self.ship_seconds: Callable[[], float] = lambda: 0.05
        self.most = 0

    def check(self) -> None:
        pool = self.budget.pool
        assert pool.lent + pool.kept <= pool.budget
        holders = self.budget.holders
        assert self.budget.small == sum(each.mapped for each in holders if not each.whole)

    async def assert_empty(self) -> None:
        await asyncio.sleep(5)
        assert (self.budget.pool.lent, self.budget.waiting, self.budget.small) == (0, 0, 0)
        assert not self.budget.holders
        assert self.hashing._running == 0
        assert live_views() == 0


class Client:
    """One push: a body as `RequestBody` would feed it to a sink, and the store behind it."""

    def __init__(
        self, server: Server, length: int, *, part_size: int = PART, chunked: bool = False
    ) -> None:
        self.outcome = ""
        self.sent = 0
        self.started = self.ended = 0.0
        self.has_room = True
        self.rate = 0.0  # bytes per second while it is not read
        self._server = server
        self._paused_at = 0.0
        self._length = length
        self._part_size = part_size
        self._paused = False
        self._go = asyncio.Event()
        self._failure: Exception | None = None
        self._under_way = 0
        self._stored = 0
        self._expected = hashlib.sha256()
        self._hasher = Sha256()
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        plan = BodyPlan(self._hasher, LIMIT, part_size)
        self.sink = PartSink(server.context, self, self, plan, length=None if chunked else length)

    # Flow

    def pause(self) -> None:
        if not self._paused:
            self._paused_at = self._loop.time()
        self._paused = True
        self._go.clear()

    def resume(self) -> None:
        self._paused = False
        self._heard = self._loop.time()
        self._go.set()

    def fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._go.set()

    def unread(self) -> int:
        """What its socket would hold: it sends on while it is not read."""
        ahead = self.rate * (self._loop.time() - self._paused_at)
        return int(min(256 * KIB, ahead, self._length - self.sent))

    # Shipper

    def ship(self, part: PartBuffer) -> None:
        assert part.filled == self._part_size
        self._under_way += 1
        self.has_room = self._under_way < 4
        self._loop.call_later(self._server.ship_seconds(), self._shipped, part)

    def _shipped(self, part: PartBuffer) -> None:
        self._stored += part.filled
        part.release()
        self._under_way -= 1
        self.has_room = True
        self.sink.part_done()

    # The client

    async def send(self, count: int) -> None:
        """So many bytes, as fast as they are read."""
        while count and self.sent < self._length:
            while self._paused and self._failure is None:
                await self._go.wait()
            if self._failure is not None:
                raise self._failure
            buffer = self.sink.get_buffer(self._length - self.sent)
            size = len(memoryview(buffer)) if not isinstance(buffer, PartBuffer) else len(buffer)
            assert size > 0
            taken = fill(buffer, BYTES[: min(count, self._length - self.sent)])
            self._expected.update(BYTES[:taken])
            self.sent += taken
            count -= taken
            self.sink.received(taken)
            self._heard = self._loop.time()
            if self.sent % 64 < 8:
                self._server.check()

    async def tick(self) -> None:
        """What a connection does once a second."""
        while True:
            await asyncio.sleep(1)
            idle = self._loop.time() - self._heard
            if not self._paused and idle >= 1 and self.sent < self._length:
                try:
                    self.sink.idle(idle)
                except RegistryError as error:
                    self.fail(error)

    async def run(self, behaviour: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        """Behave; in the end all must be there, and right, or nothing be held."""
        self.started = self._loop.time()
        ticking = asyncio.create_task(self.tick())
        failed = asyncio.create_task(self._failed())
        behaving = asyncio.create_task(behaviour(self))
        try:
            await asyncio.wait((behaving, failed), return_when=asyncio.FIRST_COMPLETED)
            if self._failure is not None:
                raise self._failure
            if not behaving.done() or self.sent < self._length:
                self.outcome = "gave up"
                return
            behaving.result()
            await self.sink.settle()
            await self.sink.digested()
            last = self.sink.take_last()
            kept = last.filled if last is not None else 0
            if last is not None:
                self._loop.call_later(self._server.ship_seconds(), last.release)
            while self._under_way:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
            assert self._stored + kept == self._length
            assert self._hasher.hexdigest() == self._expected.hexdigest()
            self.outcome = "done"
        except RegistryError as error:
            self.outcome = str(error)
        finally:
            self.ended = self._loop.time()
            self.sink.drop()
            last = self.sink.take_last()
            if last is not None:
                last.release()
            for task in (ticking, failed, behaving):
                task.cancel()
            await asyncio.wait((ticking, failed, behaving))

    async def _failed(self) -> None:
        while self._failure is None:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.05)


async def fast(client: Client) -> None:
    """Sends as fast as it is read, a megabyte in some 10 ms."""
    client.rate = 100e6
    while client.sent < client._length:
        await client.send(128 * KIB)
        await asyncio.sleep(0.001)


async def drip(client: Client) -> None:
    """75 bytes four times a second."""
    client.rate = 300
    while client.sent < client._length:
        await client.send(75)
        await asyncio.sleep(0.25)


async def steady(client: Client) -> None:
    """A slow line, 20 KB a second."""
    client.rate = 20e3
    while client.sent < client._length:
        await client.send(5000)
        await asyncio.sleep(0.25)


async def silent(client: Client) -> None:
    """Some bytes, and then nothing more."""
    await client.send(random.Random(client._length).choice([1, 5000, 70 * KIB, 300 * KIB]))
    await asyncio.sleep(10_000)


async def burst(client: Client) -> None:
    """Enough for a whole buffer, and then hardly anything, again and again."""
    while client.sent < client._length:
        await client.send(80 * KIB)
        await asyncio.sleep(20)


async def leaves(client: Client) -> None:
    """Fast, and gone amid a part."""
    client.rate = 100e6
    await client.send(random.Random(client._length).randrange(client._length))


BEHAVIOURS: Final = [fast, drip, steady, silent, burst, leaves]


@pytest.mark.parametrize("seed", range(300))
def test_every_fast_client_finishes(seed: int) -> None:
    dice = random.Random(seed)

    async def work() -> None:
        server = Server(dice.choice([1, 1, 1.5, 2, 3, 4, 8]), dice.choice([0, 0, 3]))
        server.ship_seconds = lambda: dice.choice([0.01, 0.05, 0.5])
        most = server.budget.pool.budget // PART
        clients: list[Client] = []
        tasks: list[asyncio.Task[None]] = []
        bad: list[asyncio.Task[None]] = []
        fast_ones: list[Client] = []
        for _ in range(dice.randrange(2, 30)):
            behaviour = dice.choice(BEHAVIOURS)
            length = dice.choice([1, 3000, 64 * KIB, 100 * KIB, PART, 2 * PART + 5, 4 * PART])
            size = PART * dice.choice([1, 1, 1, dice.randrange(1, most + 1)])
            chunked = behaviour is fast and dice.random() < 0.3
            length += dice.randrange(3)
            client = Client(server, length, part_size=size, chunked=chunked)
            clients.append(client)
            task = asyncio.create_task(client.run(behaviour))
            (tasks if behaviour is fast else bad).append(task)
            if behaviour is fast:
                fast_ones.append(client)
            await asyncio.sleep(dice.choice([0, 0, 0.01, 1.1, 3]))
        if tasks:
            await asyncio.wait(tasks)
        for task in bad:
            task.cancel()
        results = await asyncio.gather(*tasks, *bad, return_exceptions=True)
        for client in clients:
            client.sink.take_last()  # of those that never began
        errors = [each for each in results if isinstance(each, Exception)]
        assert errors == []
        assert {client.outcome for client in fast_ones} <= {"done"}
        await server.assert_empty()

    simulate(work())


def test_clients_that_hardly_send_hold_up_nobody() -> None:
    """Many of them beside fast ones, for as long as it takes them to fill what they may have."""

    async def push(server: Server) -> float:
        clients = [Client(server, 8 * PART) for _ in range(8)]
        await asyncio.gather(*(client.run(fast) for client in clients))
        assert {client.outcome for client in clients} == {"done"}
        return max(client.ended - client.started for client in clients)

    async def work() -> None:
        server = Server(8)
        alone = await push(server)
        slow = [Client(server, 20_000_000) for _ in range(300)]
        tasks = [asyncio.create_task(client.run(drip)) for client in slow]
        for _ in range(4):
            await asyncio.sleep(15)
            assert await push(server) <= 2 * alone + LOOK_SECONDS
        assert any(client.outcome for client in slow)  # there is no room for all of them
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.assert_empty()

    simulate(work())


def test_slow_clients_take_their_time_where_nobody_waits() -> None:
    """More than the share of small buffers holds, in all."""

    async def work() -> None:
        server = Server(16)
        clients = [Client(server, 2 * PART) for _ in range(7)]
        await asyncio.gather(*(client.run(steady) for client in clients))
        assert {client.outcome for client in clients} == {"done"}
        await server.assert_empty()

    simulate(work())


def test_the_slowest_go_first_where_memory_is_short() -> None:
    async def work() -> None:
        server = Server(12)
        server.ship_seconds = lambda: 1.0
        steadies = [Client(server, 2 * PART) for _ in range(2)]
        slow = [Client(server, 2 * PART) for _ in range(450)]
        tasks = [asyncio.create_task(client.run(drip)) for client in slow]
        tasks += [asyncio.create_task(client.run(steady)) for client in steadies]
        quick = [asyncio.create_task(Client(server, 400 * PART).run(fast)) for _ in range(6)]
        await asyncio.wait(tasks[-2:])
        assert [client.outcome for client in steadies] == ["done", "done"]
        assert any("too slowly" in client.outcome for client in slow)
        for task in [*tasks, *quick]:
            task.cancel()
        await asyncio.gather(*tasks, *quick, return_exceptions=True)
        await server.assert_empty()

    simulate(work())


def test_waiting_for_memory_ends() -> None:
    """The store takes nothing for an hour: an upload that has just begun is refused soon, one that
    has sent much much later; what waits within a handler, too."""

    async def work() -> None:
        server = Server(3)
        server.ship_seconds = lambda: 1000.0
        older = Client(server, 40 * PART)
        task = asyncio.create_task(older.run(fast))
        await asyncio.sleep(5)
        younger = Client(server, PART)
        started = server.budget.now()
        with pytest.raises(RegistryError) as refusal:
            await asyncio.gather(younger.run(fast), server.budget.acquire(PART, PART))
        assert (refusal.value.status, refusal.value.headers) == (503, (("Retry-After", "30"),))
        assert WAIT_SECONDS <= server.budget.now() - started <= WAIT_SECONDS + 2
        await asyncio.sleep(1)
        assert "no memory" in younger.outcome
        assert not older.outcome
        await task
        assert "no memory" in older.outcome
        assert older.ended - older.started >= WAIT_SECONDS_MIDWAY
        await asyncio.sleep(1000)
        await server.assert_empty()

    simulate(work())


@pytest.mark.timed
def test_a_look_at_many_is_short() -> None:
    """It is one step of the loop; the collector of garbage may not count here."""

    async def work() -> None:
        server = Server(16)
        slow = [Client(server, 20_000_000) for _ in range(4000)]
        for client in slow:
            await client.send(75)
        waiting = [asyncio.create_task(Client(server, 40 * PART).run(fast)) for _ in range(20)]
        await asyncio.sleep(2)
        took = []
        gc.disable()
        for _ in range(5):
            await asyncio.sleep(1)
            assert server.budget.waiting
            began = time.thread_time()
            server.budget._look()
            took.append(time.thread_time() - began)
        gc.enable()
        assert min(took) < 0.01
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for client in slow:
            last = client.sink.take_last()
            if last is not None:
                last.release()
        await server.assert_empty()

    simulate(work())
