"""The memory of bodies that are held whole: one budget for all connections, lent in turn.

A body of up to `SMALL` bytes is part of what a connection may cost. A larger one is reserved before
it is read, from a client or from the store, all of it at once and in the order of asking: so nobody
holds a part of what it needs and waits for the rest. What is lent is given back when the request
has been answered. While others wait, whoever holds memory must move bytes, or is cut.

Answers with the same ETag are in memory once, however many clients read them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from epoch.errors import Code, RegistryError
from epoch.http.message import Response
from epoch.http.response import error_response

SMALL: Final = 64 * 1024
"""Bytes of the largest body that is not reserved."""

PARSED: Final = 3
"""Times its size that a body of a request takes while it is worked on: its bytes, and what they
say. A manifest of 4 MiB and 26,000 layers becomes 5.7 MiB of objects."""

WAIT_SECONDS: Final = 10.0
"""How long a request waits for memory, then it is answered 503."""

EARN_SECONDS: Final = 10.0
EARN_RATE: Final = 64 * 1024
"""While others wait, a client must move so many bytes a second, averaged over so many seconds."""


class Holder(Protocol):
    """A connection whose request holds memory."""

    @property
    def moved(self) -> int | None:
        """Bytes of bodies that its client has sent or taken so far; None while it is not the
        client that the request waits for."""

    def give_up(self) -> None:
        """Cut it: others wait for memory, and its client is too slow."""


class Hold:
    """Memory that is lent, to all requests that use what is in it."""

    def __init__(self, size: int) -> None:
        self.size: Final = size
        self.tag = ""
        """The ETag of the answer in it, where that may be shared."""
        self.data = b""
        self.holders: dict[Holder, tuple[int, float] | None] = {}
        """How much each had moved when, at the beginning of its current `EARN_SECONDS`."""


class Memory:
    """The budget, and the queue before it."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes lent at the most."""
        self.limit: Final = limit
        self.lent = 0
        """Bytes."""
        self._holds: set[Hold] = set()
        self._shared: dict[str, Hold] = {}
        self._queue: deque[tuple[int, asyncio.Future[Hold]]] = deque()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def lend(self, size: int, holder: Holder) -> Hold | None:
        """Memory for `size` bytes, or None: others wait, or there is no room."""
        if self._queue or self.lent + size > self.limit:
            return None
        return self._lend(size, holder)

    async def reserve(self, size: int, holder: Holder) -> Hold:
        """The same, but wait for it; UNAVAILABLE after `WAIT_SECONDS`."""
        hold = self.lend(size, holder)
        if hold is not None:
            return hold
        granted: asyncio.Future[Hold] = asyncio.get_running_loop().create_future()
        place = (size, granted)
        self._queue.append(place)
        try:
            async with asyncio.timeout(WAIT_SECONDS if size <= self.limit else 0):
                hold = await granted
        except TimeoutError:
            raise short_of_memory() from None
        finally:
            if place in self._queue:
                self._queue.remove(place)
                self._serve()
            elif hold is None and not granted.cancelled():
                self._free(granted.result())  # granted in the moment in which we gave up
        hold.holders[holder] = None
        return hold

    def leave(self, hold: Hold, holder: Holder) -> None:
        """`holder` does not need it any more; the last one gives it back."""
        hold.holders.pop(holder, None)
        if not hold.holders:
            self._free(hold)

    def share(self, tag: str, data: bytes, hold: Hold, holder: Holder) -> Hold:
        """The memory that the answer `data`, whose ETag is `tag`, is to be sent from: `hold`, which
        has it, or that of an equal answer that is being sent already; `hold` is then given back."""
        same = self._shared.get(tag)
        if same is not None and same is not hold and same.data == data:
            same.holders[holder] = None
            self.leave(hold, holder)
            return same
        hold.data = data
        if tag and same is None:
            hold.tag, self._shared[tag] = tag, hold
        return hold

    def tick(self, now: float) -> None:
        """While others wait, cut who does not earn its memory; called about once a second."""
        for hold in list(self._holds):
            for holder, mark in list(hold.holders.items()):
                moved = holder.moved
                if moved is None or mark is None or not self._queue:
                    hold.holders[holder] = None if moved is None else (moved, now)
                elif now - mark[1] >= EARN_SECONDS:
                    if moved - mark[0] < EARN_RATE * EARN_SECONDS:
                        holder.give_up()
                    hold.holders[holder] = (moved, now)

    def _lend(self, size: int, holder: Holder | None) -> Hold:
        hold = Hold(size)
        if holder is not None:
            hold.holders[holder] = None
        self.lent += size
        self._holds.add(hold)
        return hold

    def _free(self, hold: Hold) -> None:
        if hold in self._holds:
            self._holds.remove(hold)
            self.lent -= hold.size
            if self._shared.get(hold.tag) is hold:
                del self._shared[hold.tag]
            self._serve()

    def _serve(self) -> None:
        while self._queue and self.lent + self._queue[0][0] <= self.limit:
            size, granted = self._queue.popleft()
            if not granted.done():
                granted.set_result(self._lend(size, None))


class Claims:
    """What one request has reserved."""

    def __init__(self, memory: Memory, holder: Holder) -> None:
        self._memory = memory
        self._holder = holder
        self._holds: list[Hold] = []

    async def reserve(self, size: int) -> None:
        """See `message.Request.reserve`."""
        self._holds.append(await self._memory.reserve(size, self._holder))

    def answer(self, response: Response) -> Response:
        """The same answer, from memory that is accounted for; a refusal where there is none."""
        data = response.body
        if not isinstance(data, bytes) or len(data) <= SMALL:
            return response
        if not self._holds:
            hold = self._memory.lend(len(data), self._holder)
            if hold is None:
                return error_response(short_of_memory())
            self._holds.append(hold)
        tag = next((value for name, value in response.headers if name == "ETag"), "")
        self._holds[-1] = hold = self._memory.share(tag, data, self._holds[-1], self._holder)
        response.body = hold.data
        return response

    def release(self) -> None:
        """The request has been answered."""
        for hold in self._holds:
            self._memory.leave(hold, self._holder)
        self._holds.clear()


def short_of_memory() -> RegistryError:
    """The refusal where too many large bodies are under way."""
    return RegistryError(
        Code.UNAVAILABLE,
        "too many large manifests or lists are under way: try again",
        headers=(("Retry-After", "5"),),
    )
