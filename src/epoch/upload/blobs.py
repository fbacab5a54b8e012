"""Pushes of blobs whose digest is known up front: from the request to the verified object."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Coroutine
from typing import Any, Final

from epoch import log
from epoch.config import UploadSettings
from epoch.digest import Digest
from epoch.errors import Code, RegistryError
from epoch.http.message import Body, ClientGone, Flow, Request, Response
from epoch.metrics import PushOutcome, metrics
from epoch.names import check_name
from epoch.store import keys
from epoch.store.base import Store, StoreError
from epoch.upload.budget import Budget
from epoch.upload.dispatcher import Dispatcher
from epoch.upload.sink import DiscardSink, PartSink, new_hasher

IGNORED_BODY: Final = 65536
"""Bytes of a body that a POST which begins an upload may have for no reason; it is dropped."""


class Blobs:
    """The handlers of `PUT blobs/<digest>`, `POST blobs/uploads/` and the closing `PUT`."""

    def __init__(self, store: Store, settings: UploadSettings) -> None:
        self.budget = Budget(settings)
        self._store = store
        self._in_flight = settings.parts_in_flight
        self._max_blob = min(settings.max_blob, self.budget.largest_blob())
        self._cleanups: set[asyncio.Task[None]] = set()

    # Handlers

    async def put(self, request: Request, name: str, reference: str) -> Response:
        """`PUT /v2/<name>/blobs/<digest>`: the whole blob in one request. Not in the OCI spec.

        64 bare hex digits are taken as sha256, as the Go server's clients send them.
        """
        check_name(name)
        digest = Digest.parse(reference if ":" in reference else f"sha256:{reference}")
        return await self._push(request, name, digest)

    async def post(self, request: Request, name: str) -> Response:
        """`POST blobs/uploads/`: with `?digest=` the whole blob, else the begin of an upload."""
        check_name(name)
        text = request.parameter("digest")
        if text is not None:
            return await self._push(request, name, Digest.parse(text))
        await request.body.read(IGNORED_BODY)
        session = uuid.uuid4().hex
        headers = [
            ("Location", f"/v2/{name}/blobs/uploads/{session}"),
            ("Docker-Upload-UUID", session),
            ("Range", "0-0"),
        ]
        return Response(202, headers)

    async def put_upload(self, request: Request, name: str, session: str) -> Response:
        """`PUT blobs/uploads/<session>?digest=`: the whole blob, at the end of a POST."""
        check_name(name)
        _check_session(session)
        text = request.parameter("digest")
        if text is None:
            raise RegistryError(Code.DIGEST_INVALID, "the closing PUT needs ?digest=<digest>")
        return await self._push(request, name, Digest.parse(text))

    async def close(self) -> None:
        """Wait for the aborts that are under way."""
        while self._cleanups:
            await asyncio.wait(self._cleanups)
        self.budget.pool.trim()

    # One push

    async def _push(self, request: Request, name: str, digest: Digest) -> Response:
        outcome: PushOutcome = "failed"
        try:
            _check_framing(request, digest)
            outcome = await self._receive(request.body, digest)
        except ClientGone:
            outcome = "aborted"
            raise
        except asyncio.CancelledError:
            outcome = "aborted"
            raise
        except RegistryError as error:
            if error.code is Code.DIGEST_INVALID:
                outcome = "digest_invalid"
            elif error.code is Code.SIZE_INVALID:
                outcome = "size_invalid"
            elif error.status == 408:
                outcome = "aborted"
            raise
        except StoreError as error:
            log.error("a push failed", repository=name, digest=digest, reason=error)
            raise
        finally:
            metrics.pushes[outcome] += 1
        headers = [
            ("Location", f"/v2/{name}/blobs/{digest}"),
            ("Docker-Content-Digest", str(digest)),
        ]
        return Response(201, headers)

    async def _receive(self, body: Body, digest: Digest) -> PushOutcome:
        if body.length is not None and body.length > self._max_blob:
            raise RegistryError(
                Code.SIZE_INVALID,
                f"a blob may have at most {self._max_blob} bytes here, "
                f"and {body.length} are announced",
                status=413,
            )
        stored = await self._store.head(keys.blob(digest))
        if stored is not None and body.length in (None, stored.size):
            await self._verify(body, digest)
            return "existing"
        await self._upload(body, digest)
        return "created"

    async def _verify(self, body: Body, digest: Digest) -> None:
        """Read a body whose blob is already stored: the pusher must have it all the same."""
        hasher = new_hasher(digest.algorithm)
        await body.into(lambda _: DiscardSink(hasher, self._max_blob))
        _check_digest(digest, hasher.hexdigest())

    async def _upload(self, body: Body, digest: Digest) -> None:
        hasher = new_hasher(digest.algorithm)
        sink: PartSink | None = None
        flow: Flow | None = None

        def room() -> None:
            if sink is not None:
                sink.part_done()

        def failure(error: Exception) -> None:
            if flow is not None:
                flow.fail(error)

        dispatcher = Dispatcher(
            self._store, keys.blob(digest), self._in_flight, on_room=room, on_failure=failure
        )

        def make_sink(of: Flow) -> PartSink:
            nonlocal sink, flow
            flow = of
            sink = PartSink(
                of,
                self.budget,
                dispatcher,
                hasher=hasher,
                length=body.length,
                limit=self._max_blob,
            )
            return sink

        try:
            await body.into(make_sink)
            assert sink is not None
            last = await sink.take_last()
            try:
                _check_digest(digest, hasher.hexdigest())
            except RegistryError:
                if last is not None:
                    last.release()
                raise
            await dispatcher.finish(last)
        except BaseException:
            if sink is not None:
                sink.close()
            # On its own: it must not end with the request, whose task may be cancelled right now.
            cleanup = self._background(_abort(dispatcher, digest))
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(cleanup)
            raise

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)
        return task


async def _abort(dispatcher: Dispatcher, digest: Digest) -> None:
    try:
        await dispatcher.abort()
    except StoreError as error:
        log.warn(
            "an upload could not be aborted; it is left in the store", digest=digest, reason=error
        )


def _check_framing(request: Request, digest: Digest) -> None:
    """A body without a length is an empty one, which only the digest of nothing can mean."""
    headers = request.headers
    if "content-length" in headers or "transfer-encoding" in headers:
        return
    if digest != Digest.of(b"", digest.algorithm):
        raise RegistryError(
            Code.SIZE_INVALID,
            "a blob needs Content-Length or Transfer-Encoding: chunked",
            status=411,
        )


def _check_digest(expected: Digest, actual: str) -> None:
    if expected.hex != actual:
        raise RegistryError(
            Code.DIGEST_INVALID,
            "the content does not have the digest it was sent under; nothing was stored",
            detail={"expected": str(expected), "actual": f"{expected.algorithm}:{actual}"},
        )


def _check_session(session: str) -> None:
    try:
        uuid.UUID(hex=session)
    except ValueError:
        raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN) from None
