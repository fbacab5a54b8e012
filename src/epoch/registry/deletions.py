"""Deletions of manifests beside pushes: how a push learns that a deletion may have taken something.

A bucket has no locks and no condition that every store keeps, so a deletion can always hit what was
written after it looked: the digest copy that was pushed again, the tag that was moved, the entry of
the referrer, the repository's marker in the catalogue. So deletions are announced, and a push looks
for them when it has written everything:

    deletion:  put a note -> look -> delete -> put the marker anew (or remove it) -> remove the note
    push:      read the marker -> write -> list the notes, then read the marker again

A push over which no note is listed and the marker has stayed the same is done, at the cost of these
looks alone. Otherwise it waits until the deletions that it met have ended, looks for each object
that it has written, and writes again what is missing, until nothing is.

Why nothing that was pushed is lost. Say that a deletion removed at `d` what a push had written at
`w` before `d`, and that the deletion had looked before `w`: so it put its note before `w`, and the
push lists the notes after `w`. If the note is still there, the push waits for the deletion's end
and finds out. If not, the deletion has ended, so it has put the marker anew, or removed it, after
`d`. The push read the marker for the first time before `w`, and for the second time after the
notes, so it sees two different markers, since each is a random token, and finds out too. A deletion
that looks only after `w` sees what the push has written; what it deletes then, it was asked to
delete.

So a deletion that dies at any step leaves its note, and the pushes that it met mend what it took.
`Waits.dead` seconds after a push has first met the note, no request can come of that deletion any
more, since none is sent later than `Waits.lease` seconds after the note; then the push removes it.
A push that dies was not answered. What it leaves, a later collection mends.

Assumed: names that are listed in one answer were all there at one moment of the request, and reads
and lists show every write that was answered before they began. Clocks do not matter.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from epoch import layout
from epoch.registry.catalog import Catalog
from epoch.store.base import ObjectInfo, Store, StoreError

_REMEMBERED: Final = 4096
"""Repositories whose marker is remembered; each saves a push one request."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds. Only tests have a reason to change them.

    `lease`: after its note was written, a deletion must have sent its last request. `dead`: after a
    push has met a note, its deletion counts as dead: the lease, and as much for requests that the
    store carries out late. `poll`, `longest_poll`: how often a push looks, at first and later.
    """

    lease: float = 30.0
    dead: float = 60.0
    poll: float = 0.02
    longest_poll: float = 0.2


WAITS: Final = Waits()


class Deletions:
    """Both sides of the agreement. One per process, to remember markers."""

    def __init__(self, store: Store, catalog: Catalog, waits: Waits = WAITS) -> None:
        self._store = store
        self._catalog = catalog
        self._waits = waits
        self.markers: dict[str, ObjectInfo] = {}
        """Of repositories in which no deletion was seen since."""

    async def watch(self, repository: str) -> Watch:
        """Begin a push. To be called, and waited for, before it writes anything."""
        marker = self.markers.get(repository) or await self._catalog.mark(repository)
        return Watch(self, repository, marker)

    async def notes(self, repository: str) -> Sequence[str]:
        """The keys of the notes of deletions that are under way, or died."""
        prefix = layout.deletions(repository)
        # SeaweedFS shows a folder that has just become empty as an object without a name.
        return [prefix + name for name in await self._store.names(prefix) if name]

    async def marker(self, repository: str) -> ObjectInfo | None:
        """The repository's marker."""
        return await self._catalog.marker(repository)

    async def ended(self, note: str) -> None:
        """Wait until the deletion with this note has ended, or certainly died."""
        dead = time.monotonic() + self._waits.dead
        pause = self._waits.poll
        while await self._store.head(note) is not None:
            if time.monotonic() >= dead:
                await self._store.delete(note)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._waits.longest_poll)

    @asynccontextmanager
    async def announced(self, repository: str) -> AsyncIterator[None]:
        """Within, look at what is to be deleted, and delete it; nothing that was looked at before
        counts. At the end the repository is taken from the catalogue if it is empty.

        Where the block fails the note stays, since what was sent may still be carried out. It must
        not wait for anything but the store: `StoreError` beyond `Waits.lease`.
        """
        note = layout.deletion(repository, secrets.token_hex(16))
        try:
            async with asyncio.timeout(self._waits.lease):
                await self._store.put(note, b"")
                yield
                await self._catalog.renew(repository)
        except TimeoutError:
            raise StoreError("the deletion takes too long; what is left: delete it again") from None
        await self._store.delete(note)


class Watch:
    """What a push knows of deletions beside it."""

    def __init__(self, deletions: Deletions, repository: str, marker: ObjectInfo | None) -> None:
        self._deletions = deletions
        self._repository = repository
        self._marker = marker

    async def met_nothing(self) -> bool:
        """Whether no deletion can have taken anything. If one can, waits until all that are under
        way have ended, and is False from then on. To be called when all is written."""
        markers = self._deletions.markers
        before, self._marker = self._marker, None
        markers.pop(self._repository, None)
        notes = await self._deletions.notes(self._repository)
        for note in notes:
            await self._deletions.ended(note)
        if notes or before is None:
            return False
        # Only now, after the notes: deletions do it the other way round.
        if await self._deletions.marker(self._repository) != before:
            return False
        self._marker = markers[self._repository] = before
        if len(markers) > _REMEMBERED:
            del markers[next(iter(markers))]
        return True
