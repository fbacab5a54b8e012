"""What a push relies on stays: the agreement between requests and garbage collection.

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
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from epoch.digest import Digest
from epoch.errors import RegistryError
from epoch.store import keys
from epoch.store.base import ObjectInfo, Store, StoreError

_PINS: Final = "_pins/"
SWEEPS: Final = "_gc/sweeps/"

LONGEST: Final = 900.0
"""Seconds that a request may take from relying on blobs to having written its manifest."""

_MAX_SWEEP: Final = 8 * 1024 * 1024
_MAX_PINNED: Final = 100_000


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, the same for every process over a store. Only tests have a reason to change them.

    `young`: the age below which a blob or a pin is safe by itself. `view`: how old a request's
    view of the announcements may be. `announce`: how long a sweep waits before it looks; more than
    `view`. `sweep`: how long it may send deletions. `valid`: how long its announcement holds if it
    is not withdrawn. `patience`: how long a request waits for a sweep; `poll`: how often it looks.
    """

    young: float = 900.0
    view: float = 1.0
    announce: float = 2.0
    sweep: float = 300.0
    valid: float = 1800.0
    patience: float = 20.0
    poll: float = 0.2


TIMES: Final = Times()


class Pins:
    """The requests' side. One per process, so that what is pinned is known."""

    def __init__(self, store: Store, times: Times = TIMES) -> None:
        self._store = store
        self._times = times
        self._bucket = -1
        self._pinned: set[Digest] = set()
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._sweeps: dict[str, frozenset[str]] = {}

    async def rely(self, digest: Digest) -> ObjectInfo | None:
        """The blob, which from now on stays long enough to be named by a manifest; None: it is not
        here, and nobody is about to delete what is stored in its place.

        `StoreError`, to be tried again, where it is being deleted and that takes long.
        """
        while True:
            info = await self._store.head(keys.blob(digest))
            if info is None:
                if not await self._was_swept(digest):
                    return None
            elif time.time() - info.modified < self._times.young or self._is_pinned(digest):
                return info
            else:
                await self.claim(digest)

    async def claim(self, digest: Digest) -> None:
        """Pin a blob, whether it is here or not, and wait until no sweep may delete it."""
        bucket = self._bucket_now()
        await self._store.put(f"{_PINS}{bucket}/{digest.algorithm}-{digest.hex}", b"")
        await self._was_swept(digest)
        if bucket != self._bucket or len(self._pinned) >= _MAX_PINNED:
            self._bucket, self._pinned = bucket, set()
        self._pinned.add(digest)

    def _is_pinned(self, digest: Digest) -> bool:
        return self._bucket == self._bucket_now() and digest in self._pinned

    def _bucket_now(self) -> int:
        return int(time.time() // self._times.young)

    async def _was_swept(self, digest: Digest) -> bool:
        """Whether a sweep may have been deleting the blob; returns once none may any more."""
        deadline = time.monotonic() + self._times.patience
        waited = False
        while await self._is_announced(str(digest)):
            if time.monotonic() > deadline:
                raise StoreError(f"{digest} is just being removed as garbage", retry_after=30.0)
            waited = True
            await asyncio.sleep(self._times.poll)
        return waited

    async def _is_announced(self, digest: str) -> bool:
        needed = time.monotonic() - self._times.view
        async with self._looking:
            if self._looked <= needed:
                began = time.monotonic()
                self._sweeps = await self._look()
                self._looked = began
            return any(digest in sweep for sweep in self._sweeps.values())

    async def _look(self) -> dict[str, frozenset[str]]:
        """The announcements that hold now. Each is written once, so none is read twice."""
        oldest = time.time() - self._times.valid
        found: dict[str, frozenset[str]] = {}
        async for info in self._store.list(SWEEPS):
            if info.modified < oldest:
                continue
            known = self._sweeps.get(info.key)
            if known is None:
                data = await self._store.get(info.key, _MAX_SWEEP)
                known = frozenset((data or b"").decode("ascii", "replace").split())
            found[info.key] = known
        return found


@asynccontextmanager
async def announced(
    store: Store, digests: Iterable[Digest], times: Times = TIMES
) -> AsyncIterator[float]:
    """Announce a sweep of these blobs, a few thousand at most; within, look again, then delete.

    Gives the time, on the monotonic clock, from which on no deletion may be sent. The announcement
    is withdrawn at the end, but left to expire where the block fails: a deletion that was not
    answered may still be carried out.
    """
    key = f"{SWEEPS}{secrets.token_hex(8)}"
    until = time.monotonic() + times.announce + times.sweep
    await store.put(key, "\n".join(map(str, digests)).encode())
    await asyncio.sleep(times.announce)
    yield until
    await store.delete(key)


async def list_pins(store: Store, times: Times = TIMES) -> AsyncIterator[tuple[str, Digest, float]]:
    """Every pin: its key, its blob, and the Unix time up to which it may have been written."""
    async for info in store.list(_PINS):
        bucket, _, name = info.key.removeprefix(_PINS).partition("/")
        try:
            digest = Digest.parse(name.replace("-", ":"))
        except RegistryError:
            continue
        if bucket.isdecimal():
            yield info.key, digest, (int(bucket) + 1) * times.young
