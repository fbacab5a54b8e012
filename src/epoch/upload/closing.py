"""The end of an upload session: verified and moved to its place, or given up.

Every step may be repeated: a process that dies in between leaves a session whose closing `PUT`,
sent once more, finishes the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from epoch import layout
from epoch._fastio import PartBuffer, Sha256, fill
from epoch.errors import Code, RegistryError
from epoch.oci.digest import Digest
from epoch.store.base import Multipart
from epoch.upload.pushes import Pushes, check_digest
from epoch.upload.session import Session, Tail
from epoch.upload.session_store import Damaged, Sessions, SessionWriter


class Closer:
    """Commits sessions."""

    def __init__(self, pushes: Pushes, sessions: Sessions) -> None:
        self._pushes = pushes
        self._store = pushes.store
        self._sessions = sessions

    async def commit(self, held: SessionWriter, digest: Digest) -> None:
        """Make the blob of a complete session visible, or raise DIGEST_INVALID: the content is
        not what was promised, and the session is given up."""
        unused: Multipart | None = None
        try:
            if digest.algorithm == "sha256":
                check_digest(digest, Sha256(held.now.digest_state).hexdigest())
            if await self._is_there(held.now, digest):
                await self._store.make_durable([layout.blob(digest)])
                unused = held.now.multipart
            else:
                if not held.now.closing:
                    # Nobody may add to it any more: what follows uses up its objects.
                    await held.advance(held.now.next(closing=str(digest)))
                await self._build(held, digest)
        except RegistryError as error:
            if error.code is Code.DIGEST_INVALID:
                await held.cancel()
            raise
        had_parts = held.now.multipart is not None
        await held.advance(held.now.ended(committed=str(digest)))
        self._pushes.in_background(self._sessions.clear(held.now, unused, had_parts=had_parts))

    async def load(
        self,
        tails: Sequence[Tail],
        capacity: int,
        part_size: int,
        also: Callable[[bytes], object] | None = None,
    ) -> PartBuffer:
        """These tails in a buffer, the caller's. `also`: called with each piece too. The caller
        must not hold a buffer."""
        part = await self._pushes.budget.acquire(capacity, part_size)

        def take(piece: bytes) -> None:
            if also is not None:
                also(piece)
            with memoryview(piece) as left:
                done = 0
                while done < len(piece):
                    count = fill(part, left[done:])
                    part.advance(count)
                    done += count

        try:
            for tail in tails:
                await self._sessions.read_tail(tail, take)
        except BaseException:
            part.release()
            raise
        return part

    async def _is_there(self, session: Session, digest: Digest) -> bool:
        """Whether the blob is stored, and the session is known to hold the same."""
        stored = await self._pushes.pins.rely(digest)
        if stored is None or stored.size != session.offset:
            return False
        return digest.algorithm == "sha256" or session.verified == str(digest)

    async def _build(self, held: SessionWriter, digest: Digest) -> None:
        """Bring the bytes to the blob's key."""
        session = held.now
        if session.multipart is None:
            await self._join_tails(session, digest)
            return
        proven = await self._complete(held, session.multipart)
        if digest.algorithm != "sha256" or session.contended or not proven:
            await self._check_stored(session, digest)
        if digest.algorithm != "sha256":
            # Now: once it is moved, there is nothing left to read.
            await held.advance(session.next(verified=str(digest)))
        # It may take long. Others may store the blob meanwhile, and theirs may grow old enough to
        # be collected; and S3 dates what is copied in parts back to the beginning of the copy.
        await self._pushes.pins.claim(digest)
        await self._store.move(session.data_key, layout.blob(digest), session.offset)

    async def _complete(self, held: SessionWriter, upload: Multipart) -> bool:
        """Make the session's object of its parts; False where it was only found.

        What we complete is proven: the bytes that we stored count, not others, since their etags
        are named, and what is read back for it is hashed. An object that is there already, since
        an answer was lost, may be anything.
        """
        session = held.now
        if held.resumed and await self._store.head(session.data_key) is not None:
            return False
        parts = list(session.parts)
        if session.last_part is not None:
            parts.append(session.last_part)
        elif session.tails:
            last = await self.load(session.tails, session.tail_size, session.part_size)
            try:
                offset = session.offset - session.tail_size
                parts.append(await self._store.put_part(upload, len(parts) + 1, offset, last))
            finally:
                last.release()
        await self._store.complete_multipart(upload, parts)
        return True

    async def _join_tails(self, session: Session, digest: Digest) -> None:
        """Store the bytes of tails alone: less than one part, or none at all."""
        # The sha256 was compared before; what is read back for it is proven by `read_tail`.
        other = None if digest.algorithm == "sha256" else hashlib.new(digest.algorithm)
        part = None
        if session.tails:
            also = None if other is None else other.update
            part = await self.load(session.tails, session.offset, session.part_size, also)
        try:
            if other is not None:
                check_digest(digest, other.hexdigest())
            await self._store.put(layout.blob(digest), b"" if part is None else part)
        finally:
            if part is not None:
                part.release()

    async def _check_stored(self, session: Session, digest: Digest) -> None:
        """Read the bytes a second time: where the digest is not sha256, where a request that did
        not come to its end may have written among them, or where they were only found."""
        hasher, other = Sha256(), None
        if digest.algorithm != "sha256":
            other = hashlib.new(digest.algorithm)
        async with self._store.open(session.data_key) as reader:
            if reader is None:
                raise Damaged(f"read {session.data_key}: it is not there")
            async for piece in reader:
                hasher.update(piece)
                if other is not None:
                    other.update(piece)
        if hasher.export_state() != session.digest_state:
            raise Damaged(f"read {session.data_key}: other bytes than came")
        if other is not None:
            check_digest(digest, other.hexdigest())
