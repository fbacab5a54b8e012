"""Uploads in several requests: `PATCH`, `GET`, `DELETE` and the closing `PUT` of a session.

The digest is not known while the bytes come. They go the same way as those of a push: hashed once
where they lie, shipped as parts of a multipart upload, here on a key of the session's own, which
the store moves to its place at the end. What is left after the last full part when a request ends
becomes a small object, so that the next request finds everything in the store.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final

from epoch import log
from epoch._fastio import PartBuffer, Sha256
from epoch.config import MAX_PARTS
from epoch.errors import Code, RegistryError
from epoch.fan_out import both
from epoch.http.message import Body, BodyCut, ClientGone, Request, Response
from epoch.metrics import metrics
from epoch.oci.digest import Digest
from epoch.store.base import Part, StoreError
from epoch.upload.closing import Closer
from epoch.upload.context import BodyPlan
from epoch.upload.dispatcher import ExistingUpload
from epoch.upload.pushes import Pushes, outcome_of
from epoch.upload.session import Session, Tail
from epoch.upload.session_store import Sessions, SessionWriter, conflict, range_of
from epoch.upload.transfer import Transfer

MERGE_LIMIT: Final = 1024 * 1024
"""Bytes up to which small tails are joined, each time twice as large: a byte is rewritten few
times however small the chunks are, and few tails are left."""

ALIVE_SECONDS: Final = 300.0
"""How often a request that still receives shows that its session is not abandoned."""

_CONTENT_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


class Chunked:
    """Handlers of `/v2/<name>/blobs/uploads/<session>`; names are checked by the caller."""

    def __init__(self, pushes: Pushes, sessions: Sessions) -> None:
        self._pushes = pushes
        self._sessions = sessions
        self._closer = Closer(pushes, sessions)

    async def begin(self, name: str) -> Response:
        """`POST blobs/uploads/`: 202 and the session's Location."""
        token = await self._sessions.begin(name)
        return _progress(202, name, token, None)

    async def status(self, name: str, token: str) -> Response:
        """`GET`: 204 and what has been received."""
        session = await self._open(name, token)
        return _progress(204, name, token, session)

    async def cancel(self, name: str, token: str) -> Response:
        """`DELETE`: 204, and nothing is left of it."""
        session = await self._open(name, token)
        async with self._sessions.hold(session) as held:
            await held.cancel()
        return Response(204)

    async def patch(self, request: Request, name: str, token: str) -> Response:
        """`PATCH`: 202 when the bytes are safe; 416 where they do not follow those before."""
        session = await self._open(name, token)
        async with self._sessions.hold(session) as held:
            if session.closing:
                raise conflict(session, "the upload is being completed")
            expected = _check_range(request, session, must=session.interrupted)
            if request.body.length != 0:
                await self._append(held, request.body, expected)
        return _progress(202, name, token, held.now)

    async def close(self, request: Request, name: str, token: str, digest: Digest) -> Response:
        """The closing `PUT ?digest=`, with or without the last bytes: 201 once the blob exists.

        A client that lost our answer may repeat it, and gets 201 again.
        """
        session = await self._sessions.find(name, token)
        location = [
            ("Location", f"/v2/{name}/blobs/{digest}"),
            ("Docker-Content-Digest", str(digest)),
        ]
        if session.committed:
            if not session.committed_as(digest) or not await self._is_still_there(session, digest):
                raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN)
            self._pushes.in_background(self._sessions.clear(session))
            return Response(201, location)
        try:
            await self._close(request, session, digest)
        except RegistryError as error:
            # Where the same request came to two processes, the other one may have done it.
            if error.status not in (404, 416):
                raise
            newest = await self._sessions.newest(session)
            if newest is None or not newest.committed_as(digest):
                raise
        return Response(201, location)

    # inside

    async def _close(self, request: Request, session: Session, digest: Digest) -> None:
        async with self._sessions.hold(session) as held:
            if not session.generation and "content-range" not in request.headers:
                await self._push_whole(held, request.body, digest)
                return
            if not session.closing:
                must = session.interrupted and request.body.length != 0
                expected = _check_range(request, session, must=must)
                if request.body.length != 0:
                    await self._append(held, request.body, expected, str(digest))
            elif session.closing != str(digest):
                raise conflict(session, f"the upload is being completed as {session.closing}")
            # Else the same bytes come once more, after an answer that was lost.
            await self._finish(held, digest)

    async def _is_still_there(self, session: Session, digest: Digest) -> bool:
        """Whether the blob that a session was committed as was not removed since; it then stays."""
        stored = await self._pushes.pins.rely(digest)
        # 0: of a blob that came whole nothing went through the session.
        return stored is not None and session.offset in (0, stored.size)

    async def _push_whole(self, held: SessionWriter, body: Body, digest: Digest) -> None:
        """All bytes come with the digest: straight to the blob's key, verified before it exists."""
        try:
            await self._pushes.push(body, digest)
        except RegistryError as error:
            if error.code is Code.DIGEST_INVALID:
                await held.cancel()
            raise
        await held.advance(held.now.ended(committed=str(digest)))

    async def _open(self, name: str, token: str) -> Session:
        session = await self._sessions.find(name, token)
        if session.committed:
            raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN, "the upload has been completed")
        return session

    async def _finish(self, held: SessionWriter, digest: Digest) -> None:
        try:
            await self._closer.commit(held, digest)
        except RegistryError as error:
            metrics.pushes[outcome_of(error)] += 1
            raise
        metrics.pushes["created"] += 1

    async def _append(
        self, held: SessionWriter, body: Body, expected: int | None, closing: str = ""
    ) -> None:
        """Receive a body after what is there, and write the next generation."""
        session = held.now
        self._pushes.check_length(body.length, session.offset)
        budget = self._pushes.budget
        part_size = session.part_size or budget.part_size(body.length)
        limit = min(self._pushes.max_blob, part_size * MAX_PARTS) - session.offset
        hasher = Sha256(session.digest_state)
        if expected is not None:
            limit = min(limit, expected)
        transfer = Transfer(
            self._pushes.context,
            session.data_key,
            BodyPlan(hasher, limit, part_size, keep_last=False),
            begun=ExistingUpload(session.multipart, list(session.parts)),
            claim=held.claim,
        )
        alive = asyncio.create_task(self._sessions.keep_alive(session, ALIVE_SECONDS))
        try:
            length = expected if body.length is None else body.length
            first = await self._load_tails(session, length, part_size)
            receipt = _Receipt(transfer, hasher, part_size, loaded=first is not None)
            try:
                await self._receive(held, receipt, body, first, expected, closing)
            except StoreError as error:
                await self._keep_parts(held, receipt, error)
                raise
        except BaseException:
            await self._pushes.give_up(transfer)
            if held.fresh:
                self._pushes.in_background(self._sessions.delete(held.fresh))
            raise
        finally:
            alive.cancel()

    async def _receive(
        self,
        held: SessionWriter,
        receipt: _Receipt,
        body: Body,
        first: PartBuffer | None,
        expected: int | None,
        closing: str,
    ) -> None:
        session, transfer = held.now, receipt.transfer
        try:
            await transfer.receive(body, first)
            _check_received(transfer.received, expected)
        except (ClientGone, RegistryError) as error:
            cut = isinstance(error, ClientGone | BodyCut)
            # What came is good: a client that asks where the upload stands can go on, unless
            # it is told 0-0, which also stands for nothing.
            is_told = session.offset + transfer.received > 1
            if not cut or closing or not transfer.received or not is_told:
                raise
            await self._keep(held, receipt, interrupted=True)
            raise
        await self._keep(held, receipt, closing=closing)

    async def _keep(
        self,
        held: SessionWriter,
        receipt: _Receipt,
        *,
        interrupted: bool = False,
        closing: str = "",
    ) -> None:
        """Make what was received safe: its parts, the rest as a tail, the next generation."""
        before, transfer = held.now, receipt.transfer
        await transfer.digested()
        last = transfer.take_last()
        try:
            shipped, tails, last_part = await self._settle(held, receipt, last)
        finally:
            if last is not None:
                last.release()
        after = held.now.next(
            offset=before.offset + transfer.received,
            digest_state=receipt.hasher.export_state(),
            part_size=receipt.part_size,
            upload_id=shipped.upload.upload_id if shipped.upload else None,
            parts=tuple(shipped.parts),
            tails=tails,
            last_part=last_part,
            interrupted=interrupted,
            closing=closing,
            claimed=False,
        )
        await self._advance(held, transfer, after)

    async def _keep_parts(
        self, held: SessionWriter, receipt: _Receipt, failure: StoreError
    ) -> None:
        """The store has failed for good: let the session stand at the end of the parts that it
        has, so that a client that asks goes on from there."""
        transfer = receipt.transfer
        try:
            await transfer.digested()
            if (last := transfer.take_last()) is not None:
                last.release()
            stored = await transfer.dispatcher.settle_begin()
            offset = sum(part.size for part in stored.parts)
            if stored.upload is None or offset <= held.now.offset:
                return
            after = held.now.next(
                offset=offset,
                digest_state=transfer.midstates[offset],
                part_size=receipt.part_size,
                upload_id=stored.upload.upload_id,
                parts=tuple(stored.parts),
                tails=(),
                last_part=None,
                interrupted=True,
                claimed=False,
                contended=True,  # what was stored after them may still arrive
            )
            await self._advance(held, transfer, after)
        except (StoreError, RegistryError) as error:
            log.warn("the parts of an upload could not be kept", id=held.now.id, reason=error)
        else:
            log.warn("an upload broke off", id=held.now.id, kept=offset, reason=failure)

    async def _advance(self, held: SessionWriter, transfer: Transfer, after: Session) -> None:
        """Write the next generation: what it names is the session's from now on."""
        before = held.now
        try:
            await held.advance(after)
        except RegistryError:
            raise
        except BaseException:
            # Maybe it was written: what it names has to stay.
            held.fresh.clear()
            transfer.dispatcher.hand_over()
            raise
        transfer.dispatcher.hand_over()
        gone = {*held.fresh, *(tail.key for tail in before.tails)}
        gone -= {tail.key for tail in after.tails}
        held.fresh.clear()
        self._pushes.in_background(self._sessions.delete([*held.stale, *gone]))

    async def _settle(
        self, held: SessionWriter, receipt: _Receipt, last: PartBuffer | None
    ) -> tuple[ExistingUpload, tuple[Tail, ...], Part | None]:
        dispatcher = receipt.transfer.dispatcher
        before = () if receipt.loaded else held.now.tails
        if last is None:
            return await dispatcher.settle(), before, None
        with memoryview(last) as data:
            if not dispatcher.has_shipped:
                tails = await self._merge(held, receipt, data)
                return await dispatcher.settle(), tails, None
            begin = receipt.transfer.midstates[dispatcher.offset]
            # Also as a part, which is the last one if nothing follows: then no byte is read back.
            tail, part = await both(
                held.put_tail(data, begin, receipt.hasher.export_state()),
                dispatcher.put_last(data),
            )
            return await dispatcher.settle(), (tail,), part

    async def _merge(
        self, held: SessionWriter, receipt: _Receipt, data: memoryview
    ) -> tuple[Tail, ...]:
        """Store `data` after the tails, joined with those before that are not larger."""
        end = receipt.hasher.export_state()
        kept, size = list(held.now.tails), len(data)
        if receipt.loaded:  # they are the begin of `data`
            return (await held.put_tail(data, kept[0].begin, end),)
        joined: list[Tail] = []
        while kept and kept[-1].size <= size and size + kept[-1].size <= MERGE_LIMIT:
            joined.insert(0, kept.pop())
            size += joined[0].size
        if not joined:
            return (*kept, await held.put_tail(data, held.now.digest_state, end))
        pieces: list[bytes] = []
        for tail in joined:
            await self._sessions.read_tail(tail, pieces.append)
        return (*kept, await held.put_tail(b"".join([*pieces, data]), joined[0].begin, end))

    async def _load_tails(
        self, session: Session, length: int | None, part_size: int
    ) -> PartBuffer | None:
        """The tails in a buffer to go on with, where the body may fill up a part with them."""
        size = session.tail_size
        if not size or (length is not None and size + length < part_size):
            return None
        capacity = part_size if length is None else min(part_size, size + length)
        return await self._closer.load(session.tails, capacity, part_size)


@dataclass(frozen=True, slots=True)
class _Receipt:
    """One body: how it came, and the digest up to its end. `loaded`: the tails from before it are
    in its first part."""

    transfer: Transfer
    hasher: Sha256
    part_size: int
    loaded: bool


def _check_range(request: Request, session: Session, must: bool = False) -> int | None:
    """How many bytes Content-Range announces, None where there is none; 416 where it does not
    begin at the upload's offset, or is missing though the client can not know the offset."""
    text = request.headers.get("content-range")
    if text is None:
        if must:
            raise conflict(session, "the last chunk broke off: ask with GET where to go on")
        return None
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise RegistryError(
            Code.BLOB_UPLOAD_INVALID, "Content-Range must be <first>-<last>, in bytes"
        )
    first, last = int(found[1]), int(found[2])
    if first != session.offset or last < first:
        raise conflict(session, f"the next chunk must begin at byte {session.offset}")
    expected, length = last + 1 - first, request.body.length
    if length is not None and length != expected:
        raise RegistryError(
            Code.SIZE_INVALID,
            f"Content-Range holds {expected} bytes, and Content-Length says {length}",
        )
    return expected


def _check_received(received: int, expected: int | None) -> None:
    if expected is not None and received != expected:
        raise RegistryError(
            Code.SIZE_INVALID, f"Content-Range holds {expected} bytes, and {received} came"
        )


def _progress(status: int, name: str, token: str, session: Session | None) -> Response:
    headers = [
        ("Location", f"/v2/{name}/blobs/uploads/{token}"),
        ("Docker-Upload-UUID", token),
        ("Range", "0-0" if session is None else range_of(session)),
    ]
    return Response(status, headers)
