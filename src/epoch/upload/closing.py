"""The end of an upload session: verified and moved to its place, or given up.

Every step may be repeated: a process that dies in between leaves a session whose closing `PUT`,
sent once more, finishes the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from epoch._fastio import PartBuffer, Sha256, fill
from epoch.digest import Digest
from epoch.errors import Code, RegistryError
from epoch.store import keys
from epoch.store.base import Multipart, StoreError
from epoch.upload.pushes import Pushes, check_digest
from epoch.upload.session import Session, Tail
from epoch.upload.session_store import Held, Sessions


class Closer:
    """Commits and cancels sessions."""

    def __init__(self, pushes: Pushes, sessions: Sessions) -> None:
        self._pushes = pushes
        self._store = pushes.store
        self._sessions = sessions

    async def commit(self, held: Held, digest: Digest) -> None:
        """Make the blob of a complete session visible, or raise DIGEST_INVALID: the content is
        not what was promised, and the session is given up."""
        unused: Multipart | None = None
        try:
            if digest.algorithm == "sha256":
                check_digest(digest, Sha256(held.now.digest_state).hexdigest())
            if await self._is_there(held.now, digest):
                await self._store.make_durable([keys.blob(digest)])
                unused = held.now.multipart
            else:
                if not held.now.closing:
                    # Nobody may add to it any more: what follows uses up its objects.
                    await held.advance(held.now.next(closing=str(digest)))
                await self._build(held, digest)
        except RegistryError as error:
            if error.code is Code.DIGEST_INVALID:
                await self.cancel(held)
            raise
        await held.advance(held.now.ended(committed=str(digest)))
        self._pushes.in_background(self._sessions.clear(held.now, unused))

    async def cancel(self, held: Held) -> None:
        """Give up a session: a request that still writes to it loses."""
        upload = held.now.multipart
        await held.advance(held.now.ended())
        await self._sessions.clear(held.now, upload)

    async def load(self, tails: Sequence[Tail], capacity: int, part_size: int) -> PartBuffer:
        """These tails in a buffer, the caller's. To be called by who holds no buffer."""
        part = await self._pushes.budget.acquire(capacity, part_size)
        try:
            for tail in tails:
                data = memoryview(await self._sessions.get_tail(tail))
                while data:
                    count = fill(part, data)
                    part.advance(count)
                    data = data[count:]
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

    async def _build(self, held: Held, digest: Digest) -> None:
        """Bring the bytes to the blob's key."""
        session = held.now
        if session.multipart is None and len(session.tails) != 1:
            await self._join_tails(session, digest)
            return
        if session.multipart is not None:
            await self._complete(session, session.multipart)
            source = session.data_key
        else:
            source = session.tails[0].key
        if digest.algorithm != "sha256" or session.contended:
            await self._check_stored(source, digest)
        if digest.algorithm != "sha256":
            # Where we die behind the move, there is nothing left to look at.
            await held.advance(session.next(verified=str(digest)))
        await self._store.move(source, keys.blob(digest), session.offset)

    async def _complete(self, session: Session, upload: Multipart) -> None:
        parts = list(session.parts)
        if session.last_part is not None:
            parts.append(session.last_part)
        elif session.tails:
            done = await self._store.head(session.data_key)
            if done is not None and done.size == session.offset:
                return  # before an answer that was lost
            last = await self.load(session.tails, session.tail_size, session.part_size)
            try:
                offset = session.offset - session.tail_size
                parts.append(await self._store.put_part(upload, len(parts) + 1, offset, last))
            finally:
                last.release()
        await self._store.complete_multipart(upload, parts)

    async def _join_tails(self, session: Session, digest: Digest) -> None:
        """No tail or several small ones, and no part: less than one part in all."""
        if not session.tails:
            check_digest(digest, hashlib.new(digest.algorithm).hexdigest())
            await self._store.put(keys.blob(digest), b"")
            return
        part = await self.load(session.tails, session.offset, session.part_size)
        try:
            if digest.algorithm != "sha256":
                with memoryview(part) as data:
                    check_digest(digest, hashlib.new(digest.algorithm, data).hexdigest())
            await self._store.put(keys.blob(digest), part)
        finally:
            part.release()

    async def _check_stored(self, key: str, digest: Digest) -> None:
        """Read the bytes a second time: where the digest is not sha256, or where a request that
        never came to its end may have written among them."""
        hasher = hashlib.new(digest.algorithm)
        async with self._store.open(key) as reader:
            if reader is None:
                raise StoreError(f"read {key}: it is not there", retry_after=None)
            async for chunk in reader:
                hasher.update(chunk)
        check_digest(digest, hasher.hexdigest())
