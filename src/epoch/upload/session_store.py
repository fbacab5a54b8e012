"""Sessions in the store: their tokens, their generations, the bytes after the last full part."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from epoch import layout, log
from epoch._fastio import Sha256
from epoch.errors import Code, RegistryError
from epoch.store.base import Multipart, Store, StoreError, UploadLost
from epoch.upload.session import MAX_STATE, Session, Tail

SECRET_BYTES: Final = 32

LIFETIME: Final = 24 * 3600.0
"""Seconds without a change after which a session has expired."""

EXPIRED: Final = LIFETIME + 3600.0
"""Seconds without a change after which nobody goes on with a session: a request that found it just
before it expired has changed it since (`ALIVE_SECONDS`), and clocks may differ by 15 minutes."""

_ID_BYTES, _TIME_BYTES, _MAC_BYTES = 16, 4, 16

_LINEAGE: Final = 16
"""Generations that may follow within the blink in which a request looks whether it has won."""

CLOSING_LOOKS: Final = 10
CLOSING_PAUSE: Final = 0.1
"""How often, and how many seconds apart, to look whether another process has completed what we
could not."""


class Damaged(StoreError):
    """What the store returns of a session is not what was written: it cannot go on."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=None)


class SessionWriter:
    """A session that one request writes to."""

    def __init__(self, sessions: Sessions, session: Session) -> None:
        self.now = session
        """The generation that the request stands on."""
        self.resumed = bool(session.closing)
        """Whether a request before this one has begun to complete it, and not come to its end."""
        self.fresh: list[str] = []
        """Keys of tails that it has written and that no generation names yet."""
        self.stale: list[str] = []
        """Keys of the generations that it has left behind."""
        self._sessions = sessions

    async def advance(self, after: Session) -> None:
        """Write the next generation; 416 or 404 if another request was faster."""
        upload = after.multipart
        if upload is not None and (after.parts, after.last_part) != (
            self.now.parts,
            self.now.last_part,
        ):
            await self._sessions.store.sync_parts(upload)
        before, self.now = self.now, await self._sessions.advance(self.now, after)
        if before.generation:
            self.stale.append(before.state_key())

    async def claim(self) -> None:
        """Announce that parts of the multipart upload are about to be written: their numbers are
        the same for all that go on from here."""
        await self.advance(self.now.next(claimed=True, interrupted=True, last_part=None))

    async def cancel(self) -> None:
        """Give the session up: a request that still writes to it loses."""
        upload = self.now.multipart
        await self.advance(self.now.ended())
        await self._sessions.clear(self.now, upload)

    async def put_tail(self, data: memoryview | bytes, begin: bytes | None, end: bytes) -> Tail:
        """Store bytes after the last full part. `begin`, `end`: the states of the upload's sha256
        before and after them."""
        offset = Sha256(begin).length
        key = layout.upload_tail(self.now.id, offset, secrets.token_hex(4))
        self.fresh.append(key)
        await self._sessions.store.put(key, data)
        return Tail(key, len(data), begin, end)


class Sessions:
    """Begins, finds, advances and ends sessions."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._secret: bytes | None = None
        self._busy: set[str] = set()

    async def begin(self, repository: str) -> str:
        """The token of a new session. Nothing is written: a client that begins and never sends
        leaves no trace."""
        raw = secrets.token_bytes(_ID_BYTES) + int(time.time()).to_bytes(_TIME_BYTES, "big")
        return _encode(raw + await self._mac(repository, raw))

    async def find(self, repository: str, token: str) -> Session:
        """The newest generation; BLOB_UPLOAD_UNKNOWN for what is forged, expired, of another
        repository or cancelled. One that is committed is found."""
        raw = _decode(token)
        if len(raw) != _ID_BYTES + _TIME_BYTES + _MAC_BYTES or _encode(raw) != token:
            raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN)
        named, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, await self._mac(repository, named)):
            raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN)
        empty = Session(named[:_ID_BYTES].hex(), repository)
        try:
            session, touched = await self._newest(empty)
        except Damaged as error:
            raise _damaged(empty, error) from error
        if session is None:
            touched = int.from_bytes(named[_ID_BYTES:], "big")
        elif session.cancelled or session.repository != repository:
            raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN)
        if time.time() - touched > LIFETIME:
            raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN, "the upload has expired")
        return session or empty

    @asynccontextmanager
    async def hold(self, session: Session) -> AsyncIterator[SessionWriter]:
        """Reserve a session for one request of this process; 416 if another one has it.

        Only a shortcut, that spares the loser its body: `advance` is what decides.
        """
        if session.id in self._busy:
            raise conflict(session, "another request is writing to this upload")
        self._busy.add(session.id)
        held = SessionWriter(self, session.taken_over())
        try:
            yield held
        except StoreError as error:
            await self._check_still_newest(held.now)
            if not isinstance(error, Damaged | UploadLost):
                raise
            # It would fail in the same way for ever: let the client begin again.
            await held.cancel()
            raise _damaged(session, error) from error
        finally:
            self._busy.discard(session.id)

    async def _check_still_newest(self, session: Session) -> None:
        """Raise 416 or 404 where another process was faster, and may have removed what the request
        on `session` needed; where both complete it, before it could say so."""
        for look in range(CLOSING_LOOKS if session.closing else 1):
            if look:
                await asyncio.sleep(CLOSING_PAUSE)
            newest = await self.newest(session)
            if (newest.nonce if newest else "") != session.nonce:
                raise _lost(newest) from None

    async def advance(self, before: Session, after: Session) -> Session:
        """Write the next generation; 416 or 404 if another request was faster."""
        lineage = (*before.lineage, before.nonce)[-_LINEAGE:]
        after = replace(after, nonce=secrets.token_hex(8), lineage=lineage)
        written, failure = False, None
        try:
            written = await self.store.put_new(after.state_key(), after.encode())
            # Old generations are deleted: nothing was there does not mean that none has been.
            if written and (await self._look(after))[0] == after.state_key():
                return after
        except StoreError as error:
            failure = error
        newest = await self.newest(after)
        if newest is not None and after.nonce in (newest.nonce, *newest.lineage):
            await self.store.make_durable([newest.state_key()])
            return after
        if failure is not None:
            raise failure
        if written:
            await self.delete([after.state_key()])
        raise _lost(newest)

    async def read_tail(self, tail: Tail, take: Callable[[bytes], object]) -> None:
        """Read such bytes back, piece by piece into `take`. `Damaged` where they are not what was
        written, after some of them may have been taken."""
        hasher = Sha256(tail.begin)
        async with self.store.open(tail.key) as reader:
            if reader is None or reader.info.size != tail.size:
                found = "no object" if reader is None else f"{reader.info.size} bytes"
                raise Damaged(f"read {tail.key}: {found}, where {tail.size} bytes were written")
            left = tail.size
            async for piece in reader:
                left -= len(piece)
                if left < 0:
                    break
                hasher.update(piece)
                take(piece)
        if hasher.export_state() != tail.end:
            raise Damaged(f"read {tail.key}: other bytes than were written")

    async def keep_alive(self, session: Session, interval: float) -> None:
        """Show, until cancelled, that bytes still arrive: sessions expire only after inactivity."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.store.put(session.alive_key, b"")
            except StoreError as error:
                log.warn("an upload could not be kept alive", reason=error)

    async def clear(
        self, session: Session, upload: Multipart | None = None, *, had_parts: bool = True
    ) -> None:
        """Delete what an ended session no longer needs, with its multipart upload and those of
        requests that died; its last generation stays, as a marker.

        `had_parts`: whether any generation named a multipart upload, which each that was claimed
        did. Where none did, uploads are not listed: only a request that filled a whole part and
        died with its process can have begun one, and garbage collection takes that.
        """
        try:
            if upload is not None:
                await self._abort(upload)
            if had_parts:
                async for left, _ in self.store.list_multiparts(session.data_key):
                    await self._abort(left)
            keys = [
                info.key
                async for info in self.store.list(session.folder)
                if info.key != session.state_key()
            ]
        except StoreError as error:
            log.warn("an ended upload is left in the store", upload=session.id, reason=error)
        else:
            await self.delete(keys)

    async def _abort(self, upload: Multipart) -> None:
        try:
            await self.store.abort_multipart(upload)
        except StoreError as error:
            # The rest goes all the same, and garbage collection takes this one.
            log.warn("an upload could not be aborted; it is left in the store", reason=error)

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete what is not needed any more."""
        for key in keys:
            try:
                await self.store.delete(key)
            except StoreError as error:
                # Not the client's concern: garbage collection takes it with the session.
                log.warn("an upload's leftover stays in the store", key=key, reason=error)

    async def newest(self, session: Session) -> Session | None:
        """The newest generation of a session that is known to have any, or had."""
        return (await self._newest(session))[0]

    async def _newest(self, session: Session) -> tuple[Session | None, float]:
        """The newest generation, and when the session was last written to (Unix seconds)."""
        for _ in range(8):
            key, touched = await self._look(session)
            if key is None:
                return None, touched
            data = await self.store.get(key, MAX_STATE)
            if data is not None:
                try:
                    generation = int(key.rpartition("/")[2])
                    return Session.decode(session.id, generation, data), touched
                except ValueError as error:
                    raise Damaged(f"read {key}: {error}") from error
            # A newer generation has just replaced it.
        raise StoreError(f"read {session.folder}: it changes faster than it can be read")

    async def _look(self, session: Session) -> tuple[str | None, float]:
        """The key of the newest generation, and when the session was last written to."""
        newest, touched = None, 0.0
        async for info in self.store.list(layout.upload_states(session.id)):
            touched = max(touched, info.modified)
            if info.key != session.alive_key:
                newest = info.key
        return newest, touched

    async def _mac(self, repository: str, named: bytes) -> bytes:
        if self._secret is None:
            self._secret = await self._shared_secret()
        message = len(repository).to_bytes(2, "big") + repository.encode() + named
        return hmac.digest(self._secret, message, hashlib.sha256)[:_MAC_BYTES]

    async def _shared_secret(self) -> bytes:
        """The same for all processes over this store: the first one to need it writes it."""
        found = await read_secret(self.store)
        if found is None:
            await self.store.put_new(layout.UPLOAD_SECRET, secrets.token_bytes(SECRET_BYTES))
            found = await read_secret(self.store)
        if found is None:
            raise StoreError(
                f"read {layout.UPLOAD_SECRET}: it is not there though it was just written"
            )
        return found


async def read_secret(store: Store) -> bytes | None:
    """What sessions are authenticated with, None where no server has needed it yet. `StoreError`
    where it is damaged: whoever could guess what is left of it could forge sessions."""
    found = await store.get(layout.UPLOAD_SECRET, 1024)
    # A file whose blocks never reached the disk reads as zeros.
    if found is not None and (len(found) != SECRET_BYTES or not any(found)):
        raise StoreError(
            f"read {layout.UPLOAD_SECRET}: it is damaged ({len(found)} bytes): delete that object, "
            "and a new one is made; uploads under way begin again",
            retry_after=None,
        )
    return found


def conflict(session: Session, message: str) -> RegistryError:
    """416, with where the upload stands, so that the client can go on from there."""
    return RegistryError(
        Code.BLOB_UPLOAD_INVALID, message, status=416, headers=(("Range", range_of(session)),)
    )


def _damaged(session: Session, error: StoreError) -> RegistryError:
    log.error("an upload cannot go on: the store has lost bytes of it", id=session.id, reason=error)
    return RegistryError(
        Code.BLOB_UPLOAD_UNKNOWN, "what was stored of this upload is damaged: begin again"
    )


def _lost(newest: Session | None) -> RegistryError:
    if newest is None or newest.committed or newest.cancelled:
        return RegistryError(Code.BLOB_UPLOAD_UNKNOWN, "another request has ended this upload")
    return conflict(newest, "another request has written to this upload")


def range_of(session: Session) -> str:
    """The Range field of an upload: `0-<last byte>`, and `0-0` also where there is none yet."""
    return f"0-{max(0, session.offset - 1)}"


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(token: str) -> bytes:
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
    except ValueError:
        raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN) from None
