"""Uploads in several requests: `PATCH`, `GET`, `DELETE` and the closing `PUT` of a session.

The digest is not known while the bytes come. They go the same way as those of a push: hashed once
where they lie, shipped as parts of a multipart upload, here on a key of the session's own, which
the store moves to its place at the end. What is left behind the last full part when a request ends
becomes a small object, so that the next request finds everything in the store.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from epoch._fastio import PartBuffer, Sha256, fill
from epoch.concurrently import both
from epoch.config import MAX_PARTS
from epoch.digest import Digest
from epoch.errors import Code, RegistryError
from epoch.http.message import Body, BodyCut, ClientGone, Request, Response
from epoch.metrics import metrics
from epoch.store.base import Part
from epoch.upload.closing import Closer
from epoch.upload.dispatcher import Begun
from epoch.upload.pushes import Pushes, outcome_of
from epoch.upload.session import Session, Tail
from epoch.upload.session_store import Sessions, conflict, range_of
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
        async with self._exclusive(session):
            await self._closer.cancel(session)
        return Response(204)

    async def patch(self, request: Request, name: str, token: str) -> Response:
        """`PATCH`: 202 when the bytes are safe; 416 where they do not follow those before."""
        session = await self._open(name, token)
        async with self._exclusive(session):
            end = _check_range(request, session, must=session.interrupted)
            if request.body.length != 0:
                session = await self._append(session, request.body, end)
        return _progress(202, name, token, session)

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
            if not session.committed_as(digest):
                raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN)
            return Response(201, location)
        async with self._exclusive(session):
            if session.closing == str(digest):
                pass  # the same bytes once more, after an answer that was lost
            elif session.offset == 0 and "content-range" not in request.headers:
                await self._pushes.push(request.body, digest)
                return Response(201, location)
            else:
                end = _check_range(request, session)
                if request.body.length != 0:
                    session = await self._append(session, request.body, end, str(digest))
            await self._finish(session, digest)
        return Response(201, location)

    # inside

    async def _open(self, name: str, token: str) -> Session:
        session = await self._sessions.find(name, token)
        if session.committed:
            raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN, "the upload has been completed")
        return session

    @asynccontextmanager
    async def _exclusive(self, session: Session) -> AsyncIterator[None]:
        self._sessions.occupy(session)
        try:
            yield
        finally:
            self._sessions.free(session)

    async def _finish(self, session: Session, digest: Digest) -> None:
        try:
            await self._closer.commit(session, digest)
        except RegistryError as error:
            metrics.pushes[outcome_of(error)] += 1
            raise
        metrics.pushes["created"] += 1

    async def _append(
        self, session: Session, body: Body, end: int | None, closing: str = ""
    ) -> Session:
        """Receive a body behind what is there, and write the next generation."""
        self._pushes.check_length(body.length, session.offset)
        budget = self._pushes.budget
        part_size = session.part_size or budget.part_size(body.length)
        expected = None if end is None else end - session.offset
        if expected is not None and body.length is not None and expected != body.length:
            raise RegistryError(
                Code.SIZE_INVALID,
                f"Content-Range holds {expected} bytes, and Content-Length says {body.length}",
            )
        limit = min(self._pushes.max_blob, part_size * MAX_PARTS) - session.offset
        hasher = Sha256(session.digest_state)
        transfer = Transfer(
            self._pushes.store,
            budget,
            self._pushes.settings,
            session.data_key,
            hasher=hasher,
            limit=limit,
            part_size=part_size,
            keep_last=False,
            begun=Begun(session.multipart, list(session.parts)),
        )
        alive = asyncio.create_task(self._sessions.keep_alive(session, ALIVE_SECONDS))
        try:
            first = await self._load_tails(session, body.length, part_size)
            loaded = first is not None
            try:
                await transfer.receive(body, first)
                if expected is not None and transfer.received != expected:
                    raise RegistryError(
                        Code.SIZE_INVALID,
                        f"Content-Range holds {expected} bytes, and {transfer.received} came",
                    )
            except (ClientGone, RegistryError) as error:
                cut = isinstance(error, ClientGone | BodyCut)
                if not cut or closing or not transfer.received:
                    raise
                # What came is good: a client that asks where the upload stands can go on.
                await self._keep(session, transfer, hasher, part_size, loaded, interrupted=True)
                raise
            return await self._keep(session, transfer, hasher, part_size, loaded, closing=closing)
        except BaseException:
            await self._pushes.give_up(transfer)
            raise
        finally:
            alive.cancel()

    async def _keep(
        self,
        session: Session,
        transfer: Transfer,
        hasher: Sha256,
        part_size: int,
        loaded: bool,
        *,
        interrupted: bool = False,
        closing: str = "",
    ) -> Session:
        """Make what was received safe: its parts, the rest as a tail, the next generation."""
        last = transfer.take_last()
        offset = session.offset + transfer.received
        before = () if loaded else session.tails
        try:
            shipped, tails, last_part = await self._settle(session, transfer, before, last)
        finally:
            if last is not None:
                last.release()
        after = session.next(
            offset=offset,
            digest_state=hasher.export_state(),
            part_size=part_size,
            upload_id=shipped.upload.upload_id if shipped.upload else None,
            parts=tuple(shipped.parts),
            tails=tails,
            last_part=last_part,
            interrupted=interrupted,
            closing=closing,
        )
        advanced = await self._sessions.advance(session, after)
        transfer.dispatcher.hand_over()
        self._pushes.in_background(self._sessions.drop(session, advanced))
        return advanced

    async def _settle(
        self,
        session: Session,
        transfer: Transfer,
        before: tuple[Tail, ...],
        last: PartBuffer | None,
    ) -> tuple[Begun, tuple[Tail, ...], Part | None]:
        dispatcher = transfer.dispatcher
        if last is None:
            return await dispatcher.settle(), before, None
        with memoryview(last) as data:
            if not dispatcher.has_upload:
                return await dispatcher.settle(), await self._merge(session, before, data), None
            # Also as a part, which is the last one if nothing follows: then no byte is read back.
            tail, part = await both(
                self._sessions.put_tail(session, dispatcher.offset, data),
                dispatcher.put_last(data),
            )
            return await dispatcher.settle(), (tail,), part

    async def _merge(
        self, session: Session, before: tuple[Tail, ...], data: memoryview
    ) -> tuple[Tail, ...]:
        """Store `data` behind the tails, joined with those before that are not larger."""
        kept, size = list(before), len(data)
        joined: list[Tail] = []
        while kept and kept[-1].size <= size and size + kept[-1].size <= MERGE_LIMIT:
            joined.insert(0, kept.pop())
            size += joined[0].size
        offset = sum(tail.size for tail in kept)
        if not joined:
            return (*kept, await self._sessions.put_tail(session, offset, data))
        pieces = [await self._sessions.get_tail(tail) for tail in joined]
        return (*kept, await self._sessions.put_tail(session, offset, b"".join([*pieces, data])))

    async def _load_tails(
        self, session: Session, length: int | None, part_size: int
    ) -> PartBuffer | None:
        """The tails in a buffer to go on with, where the body may fill up a part with them."""
        size = session.tail_size
        if not size or (length is not None and size + length < part_size and not session.upload_id):
            return None
        capacity = part_size if length is None else min(part_size, size + length)
        part = await self._pushes.budget.acquire(capacity, part_size)
        try:
            for tail in session.tails:
                data = memoryview(await self._sessions.get_tail(tail))
                while data:
                    count = fill(part, data)
                    part.advance(count)
                    data = data[count:]
        except BaseException:
            part.release()
            raise
        return part


def _check_range(request: Request, session: Session, must: bool = False) -> int | None:
    """The end (exclusive) of Content-Range, None where there is none; 416 where it does not begin
    at the upload's offset, or where it is missing though the client can not know the offset."""
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
    return last + 1


def _progress(status: int, name: str, token: str, session: Session | None) -> Response:
    headers = [
        ("Location", f"/v2/{name}/blobs/uploads/{token}"),
        ("Docker-Upload-UUID", token),
        ("Range", "0-0" if session is None else range_of(session)),
    ]
    return Response(status, headers)
