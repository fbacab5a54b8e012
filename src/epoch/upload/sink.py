"""Where the body of a push lands: it is hashed where it lies, and full parts are handed on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from epoch._fastio import PartBuffer, Sha256, fill
from epoch.errors import Code, RegistryError
from epoch.http.message import BodyCut, Flow
from epoch.upload.budget import Budget
from epoch.upload.hashing import Digesting, Hasher, Hashing

if TYPE_CHECKING:
    from typing_extensions import Buffer

SPILL: Final = bytearray(4096)
"""Takes a first receive when no buffer is free: reading can not be paused any earlier."""

DISCARD: Final = bytearray(256 * 1024)
"""Takes bodies that are only hashed. Shared: it is filled and used within one callback."""

STALL_SECONDS: Final = 10.0
"""How long a silent client may hold what it has sent while others wait for memory."""


def new_hasher(algorithm: str) -> Hasher:
    """sha256 by our own code, which hashes in place and can be resumed; the rest by hashlib."""
    return Sha256() if algorithm == "sha256" else hashlib.new(algorithm)


class Shipper(Protocol):
    """Takes full parts."""

    @property
    def has_room(self) -> bool:
        """Whether another part may be on its way now."""

    def ship(self, part: PartBuffer) -> None:
        """Send a full part, which is the shipper's from now on."""


class PartSink:
    """A `BodySink` that fills part buffers. What is not shipped at the end is the upload's."""

    def __init__(
        self,
        flow: Flow,
        budget: Budget,
        hashing: Hashing,
        shipper: Shipper,
        *,
        hasher: Hasher,
        length: int | None,
        limit: int,
        part_size: int,
        first: PartBuffer | None = None,
        keep_last: bool = True,
    ) -> None:
        """`length`: of the body, None if unknown. `limit`: the most bytes of it. `first`: a begun
        part to go on with, ours from now on. `keep_last`: a full part that ends the body is not
        shipped: it is to be verified first. A shorter one never is."""
        self.total = 0
        """Bytes of this body that lie in parts; they are hashed once `digested` says so."""
        self._flow = flow
        self._budget = budget
        self._shipper = shipper
        self._hasher = hasher
        self._digesting = (
            Digesting(hashing, hasher, self._hashed, part_size)
            if isinstance(hasher, Sha256)
            else None
        )
        self._length = length
        self._limit = limit
        self._part_size = part_size
        self._keep_last = keep_last
        self._part = first  # ours, being filled; at most one
        self._spilled = False  # the bytes being received go to SPILL
        self._held = b""  # what was spilled, until a buffer is there
        self._queued = False
        self._ended = False  # no further part is needed
        self._taken: asyncio.Future[None] | None = None  # somebody waits for what was spilled
        self._error: Exception | None = None  # there is no memory for it, and will not be

    # BodySink

    def get_buffer(self, limit: int) -> Buffer:
        """See `message.BodySink`."""
        if self._spilled:
            return memoryview(SPILL)[:limit]
        if self._part is None:
            self._part = self._budget.borrow(self._capacity(), self._part_size)
        elif self._part.shrunk:
            self._budget.grow(self._part)
        part = self._part
        if part is None or part.shrunk:
            self._spilled = True
            return memoryview(SPILL)[:limit]
        part.window = min(limit, self._budget.window)
        return part

    def received(self, count: int) -> None:
        """See `message.BodySink`."""
        if self.total + count > self._limit:
            raise RegistryError(
                Code.SIZE_INVALID, f"a blob may have at most {self._limit} bytes here", status=413
            )
        if self._spilled:
            self._spilled = False
            self._held = bytes(SPILL[:count])
            self._wait()
            return
        self._take(count)
        self._hand_on()

    def idle(self, seconds: float) -> None:
        """See `message.BodySink`: an idle body holds no empty buffer, and while others wait only
        as much of a begun one as it has filled, and that not for long."""
        part = self._part
        if part is None:
            return
        if part.views:
            if self._digesting is not None:
                self._digesting.flush()  # what waits to be hashed keeps the memory
            return
        if part.filled == 0:
            self._part = None
            part.release()
        elif not self._budget.waiting or part.shrink():
            return
        elif seconds >= STALL_SECONDS:
            raise BodyCut(
                Code.UNAVAILABLE,
                f"no byte has come for {STALL_SECONDS:g} seconds while others wait for memory",
                status=408,
            )

    # Borrower

    def try_borrow(self) -> bool:
        """It is our turn to borrow."""
        if not self._queued:
            return True
        try:
            part = self._borrow_in_turn()
        except Exception as error:  # noqa: BLE001 - ours to see; those behind us must go on
            self._queued = False
            self._error = error
            self._flow.fail(error)
            if self._taken is not None and not self._taken.done():
                self._taken.set_exception(error)
            return True
        if part is None:
            return False
        self._queued = False
        self._part = part
        if self._held:
            count = fill(part, self._held)
            self._held = b""
            self._take(count)
            if self._taken is not None and not self._taken.done():
                self._taken.set_result(None)
            self._hand_on()
        self._resume()
        return True

    # the upload's side

    def part_done(self) -> None:
        """The shipper has room again, or memory came back: go on if that is what we waited for."""
        if self._part is None and not self._queued and not self._ended:
            self._go_on()

    async def settle(self) -> None:
        """Wait for memory, where the end of the body came before our turn to borrow. Raises what
        went wrong then: the body, which is over, cannot tell it."""
        if self._error is not None:
            raise self._error
        if self._held:
            self._taken = asyncio.get_running_loop().create_future()
            await self._taken

    async def digested(self) -> None:
        """Wait until the digest has taken all that came."""
        if self._digesting is not None:
            await self._digesting.settle()

    @property
    def midstates(self) -> Mapping[int, bytes]:
        """Of the sha256, at the end of each full part, by the number of bytes hashed; complete
        after `digested`."""
        return {} if self._digesting is None else self._digesting.queue.midstates

    def drop(self) -> None:
        """The digest is not needed."""
        if self._digesting is not None:
            self._digesting.drop()

    def take_last(self) -> PartBuffer | None:
        """End, and hand out the part that is not shipped; the caller's from now on."""
        self._ended = True
        self._queued = False
        self._held = b""
        self._budget.leave(self)
        part, self._part = self._part, None
        if part is not None and not part.filled:
            # Lent for the end of a chunked body: S3 takes an empty part for a mistake.
            part.release()
            return None
        return part

    # inside

    def _borrow_in_turn(self) -> PartBuffer | None:
        if self._part is None:
            return self._budget.borrow(self._capacity(), self._part_size, in_turn=True)
        return self._part if self._budget.grow(self._part) else None

    def _capacity(self) -> int:
        if self._length is None:
            return self._part_size
        return min(self._part_size, self._length - self.total)

    def _take(self, count: int) -> None:
        """Hash `count` bytes at the tail of the part, where they lie, now or later."""
        part = self._part
        assert part is not None
        if self._digesting is not None:
            self._digesting.take(part, count)
            if self._digesting.must_wait:
                self._flow.pause()
        else:
            part.advance(count)
            with memoryview(part) as filled, filled[part.filled - count :] as fresh:
                self._hasher.update(fresh)
        self.total += count

    def _hand_on(self) -> None:
        """Ship the part if it is full and not the last one, and look for the next one."""
        part = self._part
        assert part is not None
        at_end = self.total == self._length
        # A buffer that was lent for the end of a body is full, and yet too short to be a part.
        is_short = part.filled < self._part_size
        if part.room or (at_end and (self._keep_last or is_short)):
            return
        self._part = None
        self._shipper.ship(part)
        if not at_end:
            self._go_on()

    def _go_on(self) -> None:
        """Look for the next part, or for what it has to wait for."""
        if self._waits():
            self._flow.pause()
        elif self._budget.has_room(self._capacity(), self._part_size):
            self._flow.resume()
        else:
            self._wait()

    def _hashed(self) -> None:
        """The digest has caught up: go on, if that is what we waited for."""
        if self._part is not None:
            self._resume()
        elif not self._queued and not self._ended:
            self._go_on()

    def _resume(self) -> None:
        """Fill on, if there is a part and it is its turn."""
        if self._part is not None and not self._queued and not self._must_digest:
            self._flow.resume()

    @property
    def _must_digest(self) -> bool:
        return self._digesting is not None and self._digesting.must_wait

    def _waits(self) -> bool:
        """Whether too many parts are on their way, or too many bytes are not hashed yet;
        `part_done` or `_hashed` will tell."""
        return not self._shipper.has_room or self._must_digest

    def _wait(self) -> None:
        self._flow.pause()
        if not self._queued:
            self._queued = True
            self._budget.queue(self, to_grow=self._part is not None)


class DiscardSink:
    """A `BodySink` that only hashes: for a blob that is already stored."""

    def __init__(self, hasher: Hasher, limit: int) -> None:
        self._hasher = hasher
        self._left = limit

    def get_buffer(self, limit: int) -> Buffer:
        """See `message.BodySink`."""
        return memoryview(DISCARD)[:limit] if limit < len(DISCARD) else DISCARD

    def received(self, count: int) -> None:
        """See `message.BodySink`."""
        self._left -= count
        if self._left < 0:
            raise RegistryError(Code.SIZE_INVALID, "the blob is too large", status=413)
        self._hasher.update(memoryview(DISCARD)[:count])

    def idle(self, seconds: float) -> None:
        """Holds nothing."""
