"""A push whose digest is known before its bytes: verified, then made visible."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, Final

from epoch import layout, log
from epoch.config import UploadSettings
from epoch.errors import Code, RegistryError
from epoch.garbage.pins import LONGEST, Pins
from epoch.http.message import Body, BodyCut, ClientGone
from epoch.metrics import PushOutcome, metrics
from epoch.oci.digest import Digest
from epoch.store.base import Store, StoreError
from epoch.upload.budget import Budget
from epoch.upload.context import BodyPlan, UploadContext
from epoch.upload.hashing import Hashing
from epoch.upload.sink import DiscardSink, new_hasher
from epoch.upload.transfer import Transfer

ABORT_SECONDS: Final = 1.0
"""How long an answer waits for the abort: mostly long enough to find the store as it was."""

CLOSE_SECONDS: Final = 5.0
"""How long the end of the process waits for aborts. What they leave, garbage collection finds."""


TRIM: Final = 32 * 1024 * 1024
"""Bytes that are returned to the kernel in one step of the loop."""


class Pushes:
    """The memory and the background work that all pushes of a process share."""

    def __init__(self, store: Store, settings: UploadSettings, pins: Pins | None = None) -> None:
        self.store = store
        self.pins = pins or Pins(store)
        self.settings = settings
        self.budget = Budget(settings)
        self.hashing = Hashing(threads=settings.hash_threads)
        self.context = UploadContext(store, settings, self.budget, self.hashing)
        self.max_blob = min(settings.max_blob, self.budget.largest_blob())
        self._cleanups: set[asyncio.Task[None]] = set()

    async def push(self, body: Body, digest: Digest) -> None:
        """Receive a whole blob and store it, or raise; nothing is left behind then.

        A blob that is already stored is read and verified all the same: its pusher must have it.
        """
        outcome: PushOutcome = "failed"
        try:
            outcome = await self._push(body, digest)
        except (ClientGone, asyncio.CancelledError):
            outcome = "aborted"
            raise
        except RegistryError as error:
            outcome = outcome_of(error)
            raise
        finally:
            metrics.pushes[outcome] += 1

    def check_length(self, length: int | None, already: int = 0) -> None:
        """Refuse a body that is announced as too long, with 413, before it is read."""
        if length is not None and already + length > self.max_blob:
            raise RegistryError(
                Code.SIZE_INVALID,
                f"a blob may have at most {self.max_blob} bytes here, "
                f"and {already + length} are announced",
                status=413,
            )

    async def give_up(self, transfer: Transfer) -> None:
        """Abort a transfer on its own task: it must not end with the request, whose task may be
        cancelled right now, nor hold the client's answer while the store is down."""
        cleanup = self.in_background(_abort(transfer))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((cleanup,), timeout=ABORT_SECONDS)

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start work that `close` waits for."""
        task = asyncio.create_task(work)
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)
        return task

    async def close(self) -> None:
        """Wait for the work in the background; not for ever, where the store is down."""
        if self._cleanups:
            _, late = await asyncio.wait(self._cleanups, timeout=CLOSE_SECONDS)
            if late:
                log.warn("the store does not answer: what was being cleaned up is left in it")
                for task in late:
                    task.cancel()
                await asyncio.wait(late)
        self.hashing.close()
        while self.budget.pool.kept:
            self.budget.pool.trim(TRIM)
            await asyncio.sleep(0)

    async def _push(self, body: Body, digest: Digest) -> PushOutcome:
        self.check_length(body.length)
        hasher = new_hasher(digest.algorithm)
        began = time.monotonic()
        stored = await self.pins.rely(digest)
        # Of a chunked body the length is known too late: it is stored, and replaces what is there.
        if stored is not None and body.length == stored.size:
            await body.into(lambda _: DiscardSink(hasher, self.max_blob))
            check_digest(digest, hasher.hexdigest())
            if time.monotonic() - began > LONGEST:
                stored = await self.pins.rely(digest)
                if stored is None or body.length != stored.size:
                    raise StoreError(f"{digest} was removed while it was being pushed")
            await self.store.make_durable([layout.blob(digest)])
            return "existing"

        async def before_visible() -> None:
            if time.monotonic() - began > LONGEST:
                # Others may have stored it since, and it may be old enough to be collected; and
                # S3 dates what is stored in parts back to its beginning.
                await self.pins.claim(digest)

        plan = BodyPlan(hasher, self.max_blob, self.budget.part_size(body.length))
        transfer = Transfer(self.context, layout.blob(digest), plan)
        try:
            await transfer.receive(body)
            await transfer.digested()
            check_digest(digest, hasher.hexdigest())
            await transfer.dispatcher.finish(transfer.take_last(), before_visible)
        except BaseException:
            await self.give_up(transfer)
            raise
        return "created"


def check_digest(expected: Digest, actual: str) -> None:
    """Raise DIGEST_INVALID unless `actual` (hex) is the digest that was promised."""
    if expected.hex != actual:
        raise RegistryError(
            Code.DIGEST_INVALID,
            "the content does not have the digest it was sent under; nothing was stored",
            detail={"expected": str(expected), "actual": f"{expected.algorithm}:{actual}"},
        )


def outcome_of(error: RegistryError) -> PushOutcome:
    """How a refused push is counted."""
    if error.code is Code.DIGEST_INVALID:
        return "digest_invalid"
    if isinstance(error, BodyCut):
        return "aborted"  # its client ended it early, or was too slow
    return "size_invalid" if error.code is Code.SIZE_INVALID else "failed"


async def _abort(transfer: Transfer) -> None:
    try:
        await transfer.abort()
    except StoreError as error:
        log.warn("an upload could not be aborted; it is left in the store", reason=error)
