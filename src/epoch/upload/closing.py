"""The end of an upload session: verified and moved to its place, or given up.

Every step may be repeated: a process that dies in between leaves a session whose closing `PUT`,
sent once more, finishes the rest.
"""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack

from epoch._fastio import Sha256, fill
from epoch.digest import Digest
from epoch.errors import RegistryError
from epoch.store import keys
from epoch.store.base import StoreError
from epoch.upload.pushes import Pushes, check_digest
from epoch.upload.session import Session
from epoch.upload.session_store import Sessions


class Closer:
    """Commits and cancels sessions."""

    def __init__(self, pushes: Pushes, sessions: Sessions) -> None:
        self._pushes = pushes
        self._store = pushes.store
        self._sessions = sessions

    async def commit(self, session: Session, digest: Digest) -> None:
        """Make the blob of a complete session visible, or raise DIGEST_INVALID: the content is
        not what was promised, and the session is given up."""
        try:
            if digest.algorithm == "sha256":
                check_digest(digest, Sha256(session.digest_state).hexdigest())
            stored = await self._pushes.pins.rely(digest)
            if stored is None or stored.size != session.offset:
                await self._build(session, digest)
            elif digest.algorithm != "sha256":
                await self._check_other(session, digest)
        except RegistryError:
            await self.cancel(session)
            raise
        ended = await self._sessions.advance(session, session.ended(committed=str(digest)))
        self._pushes.in_background(self._sessions.clear(ended))

    async def cancel(self, session: Session) -> None:
        """Give up a session: a request that still writes to it loses."""
        ended = await self._sessions.advance(session, session.ended())
        if session.multipart is not None:
            await self._store.abort_multipart(session.multipart)
        await self._sessions.clear(ended)

    async def _build(self, session: Session, digest: Digest) -> None:
        """Bring the bytes to the blob's key."""
        target = keys.blob(digest)
        if session.multipart is not None:
            await self._complete(session)
            await self._check_other(session, digest)
            await self._store.move(session.data_key, target)
        elif len(session.tails) == 1:
            await self._check_other(session, digest)
            await self._store.move(session.tails[0].key, target)
        else:
            await self._join_tails(session, digest)

    async def _complete(self, session: Session) -> None:
        assert session.multipart is not None
        parts = list(session.parts)
        if session.tails:
            assert session.last_part is not None
            parts.append(session.last_part)
        await self._store.complete_multipart(session.multipart, parts)

    async def _join_tails(self, session: Session, digest: Digest) -> None:
        """Several small tails, and no part: less than one part in all."""
        if not session.tails:
            check_digest(digest, hashlib.new(digest.algorithm).hexdigest())
            await self._store.put(keys.blob(digest), b"")
            return
        part = await self._pushes.budget.acquire(session.offset, session.part_size)
        try:
            hasher = hashlib.new(digest.algorithm)
            for tail in session.tails:
                data = memoryview(await self._sessions.get_tail(tail))
                hasher.update(data)
                while data:
                    count = fill(part, data)
                    part.advance(count)
                    data = data[count:]
            check_digest(digest, hasher.hexdigest())
            await self._store.put(keys.blob(digest), part)
        finally:
            part.release()

    async def _check_other(self, session: Session, digest: Digest) -> None:
        """Verify a digest that was named only at the end and is not sha256: the one case in which
        the bytes are read a second time."""
        if digest.algorithm == "sha256":
            return
        sources = (
            [session.data_key]
            if session.multipart is not None
            else [tail.key for tail in session.tails]
        )
        hasher = hashlib.new(digest.algorithm)
        async with AsyncExitStack() as stack:
            for key in sources:
                reader = await stack.enter_async_context(self._store.open(key))
                if reader is None:
                    raise StoreError(f"read {key}: it is not there", retry_after=None)
                async for chunk in reader:
                    hasher.update(chunk)
        check_digest(digest, hasher.hexdigest())
