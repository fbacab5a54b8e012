"""What a push relies on stays: the agreement between requests, deletions and garbage collection.

Blobs are shared, and a manifest that names one may come long after it. So a request that tells a
client that a blob is here (HEAD, mount, the push of a blob that is stored already), that is about
to store one, or that is about to write a manifest which names one, calls `Pins.rely` first.
Garbage collection deletes nothing but what it has announced with `announced`, and looks again
between announcing and deleting. Any number of processes may do either at once, over one store
whose reads and lists show every write that was answered before they began.

    request:     pin the blob -> look for announcements -> look for the blob -> write the manifest
    collection:  announce -> wait -> look for pins and manifests, at the blob's age -> delete

Of the two looks, one sees the other side's write. If the request sees the announcement, it waits
until that sweep is over and begins anew; if it does not, the sweep sees its pin, and the blob
stays. Requests do not look each time: a view of the announcements may be `Times.view` old, for
which a sweep waits `Times.announce`. What makes it cheap is age: a blob or a pin that is younger
than `Times.young` is safe by that alone, since nothing younger than the collection's least age is
ever announced. That is `MIN_GARBAGE_AGE` or more, which holds `Times.young`, `LONGEST`, and two
clocks that are 15 minutes wrong each. So a new blob costs a request nothing, and an old one a few
small requests per process and quarter of an hour.

Why nothing that a manifest needs is deleted, case by case:

1. A blob is pushed, its manifest not yet: it is younger than the least age.
2. An old blob that no manifest names is found by HEAD, mount or a push, and named soon after: it
   is pinned, as above. Pins lie in one folder per quarter of an hour and are never written twice,
   so that the deletion of old ones cannot hit a new one.
3. A manifest is written while a sweep runs: its request has relied on each blob. It began to be
   sure of them at most `LONGEST` before, so each is still young, or pinned in a way that the sweep
   sees.
4. A sweep deletes, and the blob is pushed again at that moment: the pusher finds no blob, and the
   announcement, and waits before it stores anything; announcements are withdrawn only when every
   deletion has been answered. A push that began before the blob was last stored, and lasted longer
   than `Times.young`, calls `Pins.claim` before it completes.
5. A sweep dies: its announcement holds for `Times.valid`, and requests that need exactly those
   blobs are asked to come back; no deletion is sent so late.
6. Two collections run at once: each announces what it deletes, and all of the above holds for each.

DELETE of a blob (`Pins.delete`) must take what is young, too, so that age and pins do not count;
it may keep a request waiting instead. It leaves a note for `Times.valid`, which at first says that
the deletion is under way, and then, when it was answered, that it is over:

    deletion:    note -> wait -> look for manifests -> delete the blob -> mark the note as over
    request:     look for the blob -> write the manifest by its digest -> look for notes

7. A manifest is written beside a deletion. Either the deletion's look begins after the manifest
   was written: it sees it, and the blob stays. Or it begins before; then the note is older than
   the manifest by the wait, and the request's look, which is `Times.view` old at most, sees it: a
   note outlasts `LONGEST`. The request waits until the deletion is over and looks for the blob
   again. Where that is gone, the manifest is refused. Its tags are not written yet, so none has
   moved to it; what was written by its digest is left: to delete it could hit another request,
   which has pushed the blob again and wrote the same manifest.
8. A blob is pushed beside its deletion. Who finds none, but a deletion under way, waits before it
   stores anything, as in 4. Who has found or stored one looks for notes before it answers
   (`Pins.is_kept`): a deletion that it sees is waited for, and the blob looked for again; one that
   it does not see deletes after the answer.
9. A deletion dies, or is not answered: its note says "under way" until it expires, as in 5.

Assumed: the clocks of all processes and of the store differ by less than 15 minutes (S3 refuses
signatures beyond that); no request needs more than `LONGEST` from relying on its blobs to having
written its manifest; the store does not carry out a deletion minutes after it should have answered.
A writer that does not keep to this, such as the Go server, must not push while garbage is
collected.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from epoch import layout
from epoch.fan_out import for_each
from epoch.oci.digest import Digest
from epoch.store.base import ObjectInfo, Store, StoreError
from epoch.store.readonly import unless_denied

LONGEST: Final = 900.0
"""Seconds that a request may take from relying on blobs to having written its manifest."""

_MAX_SWEEP: Final = 8 * 1024 * 1024
_MAX_PINNED: Final = 100_000
_UNDER_WAY: Final = b"under way"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, the same for every process over a store. Only tests have a reason to change them.

    `young`: the age below which a blob or a pin is safe by itself. `view`: how old a request's
    view of the announcements may be. `announce`: how long a sweep or a deletion waits before it
    looks; more than `view`. `sweep`: how long it may send deletions. `valid`: how long its
    announcement holds if it is not withdrawn; `LONGEST` and the difference of two clocks at least.
    `patience`: how long a request waits for either; `poll`: how often it looks.
    """

    young: float = 900.0
    view: float = 0.25
    announce: float = 0.5
    sweep: float = 300.0
    valid: float = 1800.0
    patience: float = 20.0
    poll: float = 0.2


TIMES: Final = Times()


@dataclass(frozen=True, slots=True)
class _View:
    """The announcements that hold at one moment."""

    sweeps: dict[str, frozenset[str]]
    """By key, the digests that are announced."""
    deleting: frozenset[str] = frozenset()
    """Digests whose deletion is under way."""
    deleted: frozenset[str] = frozenset()
    """These, and those whose deletion is over."""

    def removes(self, digest: str) -> bool:
        """Whether the blob may be removed at any moment."""
        return digest in self.deleting or any(digest in sweep for sweep in self.sweeps.values())


class Pins:
    """The requests' side. One per process, so that what is pinned is known."""

    def __init__(self, store: Store, times: Times = TIMES) -> None:
        self._store = store
        self._times = times
        self._bucket = -1
        self._pinned: set[Digest] = set()
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._view = _View({})

    async def rely(self, digest: Digest) -> ObjectInfo | None:
        """Returns the blob, which is now guaranteed to outlive the next manifest push, unless a
        request deletes it; or None if it is missing and no running sweep could delete a new copy.

        Raises `StoreError`, to be retried, while it is being deleted and that takes long.
        """
        while True:
            info = await self._store.head(layout.blob(digest))
            if info is None:
                if not await self._was_removed(digest):
                    return None
            elif time.time() - info.modified < self._times.young or self._is_pinned(digest):
                return info
            else:
                await self.claim(digest)

    async def hint(self, digest: Digest) -> ObjectInfo | None:
        """The same for an answer that is only a hint: where no pin may be written, as the store
        has it. A client that goes on from there is refused when it writes."""
        with unless_denied("pins of blobs that were asked for"):
            return await self.rely(digest)
        return await self._store.head(layout.blob(digest))

    async def claim(self, digest: Digest) -> None:
        """Pin a blob, whether it is here or not, and wait until nobody may delete it."""
        bucket = self._bucket_now()
        await self._store.put(layout.pin(bucket, digest), b"")
        await self._was_removed(digest)
        if bucket != self._bucket or len(self._pinned) >= _MAX_PINNED:
            self._bucket, self._pinned = bucket, set()
        self._pinned.add(digest)

    async def wait_for_deletions(self, digests: Iterable[Digest]) -> bool:
        """Wait until no deletion by request of any of these blobs is under way. To be called when
        what names them is stored. True: there was one lately, so they are to be looked for again.

        `StoreError`, to be tried again, where that takes long.
        """
        names = frozenset(map(str, digests))
        view, _ = await self._settled(lambda view: not names.isdisjoint(view.deleting))
        return not names.isdisjoint(view.deleted)

    async def is_kept(self, digest: Digest, began: float) -> bool:
        """Whether a blob that was found or stored is still here. To be called before that is told
        to a client whose request began at `began`, on the monotonic clock."""
        looks = await self.wait_for_deletions([digest]) or time.monotonic() - began > LONGEST
        return not looks or await self._store.head(layout.blob(digest)) is not None

    async def delete(self, digest: Digest, is_needed: Callable[[], Awaitable[bool]]) -> bool:
        """Delete a blob, unless `is_needed()`, which is asked at the last moment.

        `StoreError` where it may be there still. Takes `Times.announce` and what that takes.
        """
        await self._drop_old_notes()
        note = layout.blob_deletion(digest, secrets.token_hex(8))
        until = time.monotonic() + self._times.announce + self._times.sweep
        try:
            await _announce(self._store, note, _UNDER_WAY)
            await asyncio.sleep(self._times.announce)
            needed = await is_needed()
            if time.monotonic() > until:
                raise StoreError(f"delete {digest}: to look for what needs it took too long")
        except BaseException:
            with suppress(StoreError):
                await self._store.delete(note)
            raise
        if needed:
            await self._store.delete(note)
            return False
        deleting = asyncio.ensure_future(self._delete(digest, note))
        try:
            await asyncio.shield(deleting)
        except asyncio.CancelledError:
            await asyncio.wait({deleting})  # half of it would keep pushes of this blob waiting
            raise
        return True

    async def _delete(self, digest: Digest, note: str) -> None:
        key = layout.blob(digest)
        await self._store.delete(key)
        left = await self._store.head(key)
        await self._store.put(note, b"")
        if left is not None:
            raise StoreError(f"delete {key}: it is still there after the store said it was done")

    async def _drop_old_notes(self) -> None:
        oldest = time.time() - 2 * self._times.valid
        old = [
            info.key
            async for info in self._store.list(layout.BLOB_DELETIONS)
            if info.modified < oldest
        ]
        await for_each(self._store.delete, old)

    def _is_pinned(self, digest: Digest) -> bool:
        return self._bucket == self._bucket_now() and digest in self._pinned

    def _bucket_now(self) -> int:
        return int(time.time() // self._times.young)

    async def _was_removed(self, digest: Digest) -> bool:
        """Whether somebody may have been deleting the blob; returns once nobody may any more."""
        name = str(digest)
        _, waited = await self._settled(lambda view: view.removes(name))
        return waited

    async def _settled(self, is_busy: Callable[[_View], bool]) -> tuple[_View, bool]:
        """The first view for which it does not hold, and whether it had to be waited for."""
        deadline = time.monotonic() + self._times.patience
        waited = False
        while is_busy(view := await self._current()):
            if time.monotonic() > deadline:
                raise StoreError("this blob is just being removed", retry_after=30.0)
            waited = True
            await asyncio.sleep(self._times.poll)
        return view, waited

    async def _current(self) -> _View:
        needed = time.monotonic() - self._times.view
        async with self._looking:
            if self._looked <= needed:
                began = time.monotonic()
                self._view = await self._look()
                self._looked = began
            return self._view

    async def _look(self) -> _View:
        """The announcements that hold now. A sweep's is written once, so none is read twice."""
        oldest = time.time() - self._times.valid
        sweeps: dict[str, frozenset[str]] = {}
        deleting, deleted = set[str](), set[str]()
        async for info in self._store.list(layout.NOTES):
            if info.modified < oldest:
                continue
            if layout.parse_sweep(info.key) is not None:
                known = self._view.sweeps.get(info.key)
                if known is None:
                    data = await self._store.get(info.key, _MAX_SWEEP)
                    known = frozenset((data or b"").decode("ascii", "replace").split())
                sweeps[info.key] = known
            elif (digest := layout.parse_blob_deletion(info.key)) is not None:
                deleted.add(str(digest))
                if info.size:
                    deleting.add(str(digest))
        return _View(sweeps, frozenset(deleting), frozenset(deleted))


@asynccontextmanager
async def announced(
    store: Store, digests: Iterable[Digest], times: Times = TIMES
) -> AsyncIterator[float]:
    """Announce a sweep of these blobs, a few thousand at most; within, look again, then delete.

    Gives the time, on the monotonic clock, from which on no deletion may be sent. The announcement
    is withdrawn at the end, but left to expire where the block fails: a deletion that was not
    answered may still be carried out.
    """
    key = layout.sweep(secrets.token_hex(8))
    until = time.monotonic() + times.announce + times.sweep
    await _announce(store, key, "\n".join(map(str, digests)).encode())
    await asyncio.sleep(times.announce)
    yield until
    await store.delete(key)


async def _announce(store: Store, key: str, data: bytes) -> None:
    """Write a note by which a deletion is announced, and see that it is there to be seen."""
    await store.put(key, data)
    if await store.get(key, _MAX_SWEEP) != data:
        raise StoreError(f"put {key}: it is not there after the store said that it was done")


async def list_pins(store: Store, times: Times = TIMES) -> AsyncIterator[tuple[str, Digest, float]]:
    """Every pin: its key, its blob, and the Unix time up to which it may have been written."""
    async for info in store.list(layout.PINS):
        pin = layout.parse_pin(info.key)
        if pin is not None:
            period, digest = pin
            yield info.key, digest, (period + 1) * times.young
