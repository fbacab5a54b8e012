"""Where the body of a push lands: it is hashed where it lies, and full parts are handed on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from epoch._fastio import PartBuffer, Sha256, fill
from epoch.errors import Code, RegistryError
from epoch.http.message import BodyCut, Flow
from epoch.upload.context import BodyPlan, UploadContext
from epoch.upload.fairness import RETRY_AFTER, too_slow
from epoch.upload.hashing import Digesting, Hasher
from epoch.upload.loan import Loan

if TYPE_CHECKING:
    from typing_extensions import Buffer

SPILL: Final = bytearray(64 * 1024)
"""Takes what comes for a small buffer, which then has as much memory as was needed."""

SPILL_UNLENT: Final = 4096
"""Bytes of it that are received when there is no memory: reading can not be paused any earlier."""

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
        context: UploadContext,
        flow: Flow,
        shipper: Shipper,
        plan: BodyPlan,
        *,
        length: int | None,
        first: PartBuffer | None = None,
    ) -> None:
        """`length`: of the body, None if unknown. `first`: a begun part to go on with, which the
        sink owns from now on."""
        self.total = 0
        """Bytes of this body that lie in parts; they are hashed once `digested` says so."""
        self._flow = flow
        self._budget = context.budget
        self._hashing = context.hashing
        self._shipper = shipper
        self._hasher = plan.hasher
        self._digesting = (
            Digesting(context.hashing, plan.hasher, self._hashed, plan.part_size)
            if isinstance(plan.hasher, Sha256)
            else None
        )
        self._length = length
        self._limit = plan.limit
        self._part_size = plan.part_size
        self._keep_last = plan.keep_last
        self._loan = Loan(context.budget, self, plan.part_size, first)
        self._spilled = False  # the bytes being received go to SPILL
        self._room = 0  # bytes of it that may
        self._held = b""  # what was spilled, until there is memory for it
        self._ended = False  # no further part is needed
        self._taken: asyncio.Future[None] | None = None  # somebody waits for what was spilled
        self._error: Exception | None = None  # there is no memory for it, and will not be

        self._joined = False
        self._join(True)

    # BodySink

    def get_buffer(self, limit: int) -> Buffer:
        """See `message.BodySink`."""
        loan = self._loan
        if not self._spilled:
            if loan.part is None:
                capacity = self._capacity()
                if loan.whole or self._budget.has_plenty(capacity, self._part_size):
                    loan.borrow(capacity)
            if loan.whole and loan.part is not None:
                loan.part.window = min(limit, self._budget.window)
                return loan.part
            self._spilled = True
            most = SPILL_UNLENT if loan.whole else loan.most(len(SPILL), SPILL_UNLENT)
            self._room = min(most, self._capacity())
        return memoryview(SPILL)[: min(limit, self._room)]

    def received(self, count: int) -> None:
        """See `message.BodySink`."""
        if self.total + count > self._limit:
            raise RegistryError(
                Code.SIZE_INVALID, f"a blob may have at most {self._limit} bytes here", status=413
            )
        if self._spilled:
            self._spilled = False
            self._held = bytes(memoryview(SPILL)[:count])
            self._take_held()
            return
        self._take(count)
        self._hand_on()

    def idle(self, seconds: float) -> None:
        """See `message.BodySink`: an idle body holds no empty buffer, and while others wait a
        begun one not for long."""
        part = self._loan.part
        if part is None:
            return
        if part.views:
            if self._digesting is not None:
                self._digesting.flush()  # what waits to be hashed keeps the memory
        elif part.filled == 0:
            self.make_small()
        elif self._budget.waiting and seconds >= STALL_SECONDS:
            raise BodyCut(
                Code.UNAVAILABLE,
                f"no byte has come for {STALL_SECONDS:g} seconds while others wait for memory",
                status=408,
                headers=RETRY_AFTER,
            )

    # loan.Owner

    @property
    def held_up(self) -> bool:
        """See `loan.Owner`."""
        return self._digesting is not None and self._digesting.must_wait

    def try_borrow(self) -> bool:
        """See `loan.Owner`."""
        loan = self._loan
        if not loan.waits:
            return True
        try:
            if loan.in_turn and not self._is_still_fast():
                self._pass()
                return True
            found = self._borrow()
        except Exception as error:  # noqa: BLE001 - ours to see; those behind us must go on
            self._fail(error)
            return True
        if not found:
            return False
        loan.stop_waiting()
        if self._held:
            self._add_held()
        self._resume()
        return True

    def _borrow(self) -> bool:
        loan = self._loan
        if not loan.in_turn:
            return loan.extend(len(self._held), self._capacity())
        if loan.part is None:
            return loan.borrow(self._capacity(), in_turn=True)
        return loan.promote()

    def _pass(self) -> None:
        """It is our turn to have a whole buffer, and our client is too slow for one."""
        if self._loan.is_huge:
            self._fail(too_slow())
            return
        self.make_small()
        self._loan.stop_waiting()
        if not self._held:
            self._flow.resume()
        elif self._loan.extend(len(self._held), self._capacity()):
            self._add_held()
            self._resume()
        else:
            self._loan.wait_for_small(len(self._held))

    def make_small(self) -> None:
        """See `loan.Owner`."""
        part = self._loan.part
        if part is not None and part.views and self._digesting is not None:
            self._digesting.flush()  # what waits to be hashed keeps the memory
        if self._loan.whole and (part is None or not part.views):
            self._loan.demote()

    def refuse(self, error: RegistryError) -> None:
        """See `loan.Owner`."""
        self._fail(error)

    # the upload's side

    def part_done(self) -> None:
        """The shipper has room again, or memory came back: go on if that is what we waited for."""
        if self._loan.part is None and not self._loan.waits and not self._ended:
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
        self._join(False)
        self._ended = True
        self._held = b""
        part = self._loan.close()
        if part is not None and not part.filled:
            # Lent for the end of a chunked body: S3 takes an empty part for a mistake.
            part.release()
            return None
        return part

    # inside

    def _fail(self, error: Exception) -> None:
        """There is no memory, and will not be."""
        self._loan.stop_waiting()
        self._error = error
        self._flow.fail(error)
        if self._taken is not None and not self._taken.done():
            self._taken.set_exception(error)

    def _capacity(self) -> int:
        if self._length is None:
            return self._part_size
        return min(self._part_size, self._length - self.total)

    def _take_held(self) -> None:
        """Put what was received into a small buffer, as soon as there is memory for it."""
        if self._digesting is not None and self._digesting.behind:
            # It is hashed at once when it is there: one that waited would keep the buffer from
            # growing. `_hashed` comes back here.
            self._flow.pause()
            self._digesting.flush()
        elif not self._loan.whole and self._loan.extend(len(self._held), self._capacity()):
            self._add_held()
        else:
            self._flow.pause()
            if self._loan.wants_small(len(self._held)):
                self._loan.wait_for_small(len(self._held))
            else:
                self._loan.wait_for_whole(self._capacity())

    def _join(self, joins: bool) -> None:
        """Whether others may wait for our bytes, to hash them together."""
        if joins != self._joined:
            self._joined = joins
            (self._hashing.join if joins else self._hashing.leave)()

    def _is_still_fast(self) -> bool:
        if self._loan.is_huge and (self._budget.waiting == 1 or self._length is None):
            return True  # it would be cut off: not without need, nor where all may have come
        left = None if self._length is None else self._length - self.total - len(self._held)
        return self._loan.is_still_fast(self._flow.unread(), left)

    def _add_held(self) -> None:
        part, held = self._loan.part, self._held
        assert part is not None
        self._held = b""
        part.window = len(held)
        count = fill(part, held)
        if self._digesting is not None:
            self._digesting.take_now(part, count)
            self.total += count
        else:
            self._take(count)
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)
        self._hand_on()
        if self._loan.part is part and part.shrunk and self._loan.has_earned():
            self._promote()
        self._join(not self._loan.is_slow(0))

    def _promote(self) -> None:
        """Have a whole buffer, or wait for it."""
        if self.total == self._length:
            return
        if self._budget.waiting or not self._loan.promote():
            self._flow.pause()
            self._loan.wait_for_whole(self._capacity())

    def _take(self, count: int) -> None:
        """Hash `count` bytes at the tail of the part, where they lie, now or later."""
        part = self._loan.part
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
        part = self._loan.part
        assert part is not None
        at_end = self.total == self._length
        # A buffer that was lent for the end of a body is full, and yet too short to be a part.
        is_short = part.filled < self._part_size
        if part.room or (at_end and (self._keep_last or is_short)):
            return
        self._loan.hand_over()
        self._shipper.ship(part)
        if not at_end:
            self._go_on()

    def _go_on(self) -> None:
        """Look for the next part, or for what it has to wait for."""
        if self._waits():
            self._flow.pause()
        elif not self._loan.whole or self._budget.has_room(self._capacity(), self._part_size):
            self._flow.resume()
        else:
            self._flow.pause()
            self._loan.wait_for_whole(self._capacity())

    def _hashed(self) -> None:
        """The digest has caught up: go on, if that is what we waited for."""
        if self._ended or self._loan.waits:
            return
        if self._held:
            self._take_held()
        if self._loan.part is not None:
            self._resume()
        elif not self._loan.waits:
            self._go_on()

    def _resume(self) -> None:
        """Fill on, if there is a part and it is its turn."""
        if self._loan.part is not None and not self._loan.waits and not self.held_up:
            self._flow.resume()

    def _waits(self) -> bool:
        """Whether too many parts are on their way, or too many bytes, or such as have no memory
        yet, are not hashed; `part_done` or `_hashed` will tell."""
        return not self._shipper.has_room or self.held_up or bool(self._held)


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
