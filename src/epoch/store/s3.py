"""A store in an S3-compatible bucket.

To be imported only where a bucket is configured: it loads aiohttp, which takes 0.1 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar
from xml.sax.saxutils import escape

from epoch.concurrently import Shared
from epoch.config import S3Settings
from epoch.store.base import Multipart, ObjectInfo, ObjectReader, Part, StoreError, replaced
from epoch.store.s3_calls import Calls, Patience, Request
from epoch.store.s3_errors import Failure, NotS3, refused, understand
from epoch.store.s3_move import Copier
from epoch.store.s3_read import EmptyReader, S3Reader, info_of, range_header
from epoch.store.s3_retry import Failed
from epoch.store.s3_xml import Listing, child, parse

if TYPE_CHECKING:
    from typing_extensions import Buffer

_T = TypeVar("_T")

_TYPE: Final = {"Content-Type": "application/octet-stream"}
"""Of every object, as the Go server has it; what is served comes from the manifest's JSON."""

_XML: Final = "http://s3.amazonaws.com/doc/2006-03-01/"

_CONFLICTS: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
"""A conditional write has failed: somebody else's object is there, or is just being written."""

_MAX_CONDITIONAL: Final = 16 * 1024 * 1024
"""Bytes of the largest object that is written under a condition."""
_ABORTS: Final = 4
_PROOF: Final = 5.0
"""Seconds for which a success proves that the bucket is there."""


class S3Store:
    """`Store` over the bucket of `settings`."""

    min_part_size = 5 * 1024 * 1024

    def __init__(self, settings: S3Settings, patience: Patience | None = None) -> None:
        self._settings = settings
        self._patience = patience or Patience()
        self._calls = Calls(settings, self._patience)
        self._shared = Shared()
        self._conditional: bool | None = None  # whether conditional writes work; None: not seen yet
        self._copier = Copier(
            self._calls, settings.bucket, settings.prefix, self._patience.slow_answer
        )

    @property
    def description(self) -> str:
        """For the log line at start."""
        settings = self._settings
        return f"bucket {settings.bucket} at {settings.url}, prefix {settings.prefix!r}"

    async def check(self) -> None:
        """Prove that the bucket answers; `StoreError` within 10 seconds where it does not."""
        # Not HeadBucket: an answer to HEAD has no body, so no error code.
        query = {"list-type": "2", "prefix": self._settings.prefix, "max-keys": "1"}
        await self._calls.call(
            f"open {self.description}",
            Request("GET", query=query),
            lambda body: parse(body, "ListBucketResult"),
            silence=self._patience.check,
            attempts=1,
        )

    async def head(self, key: str) -> ObjectInfo | None:
        """The object at `key`, or None."""
        return await self._shared.ask(("head", key), lambda: self._head(key))

    async def _head(self, key: str) -> ObjectInfo | None:
        answer = await self._calls.find(f"head {key}", Request("HEAD", key))
        if answer is None:
            await self._prove_bucket()
            return None
        return info_of(key, answer.headers)

    async def get(self, key: str, limit: int) -> bytes | None:
        """The whole object, or None where there is none. `StoreError` above `limit` bytes."""
        answer = await self._calls.find(f"get {key}", Request("GET", key, limit=limit))
        return None if answer is None else answer.body

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """The same, and what is known about it."""
        return await self._shared.ask(("fetch", key, limit), lambda: self._fetch(key, limit))

    async def _fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        answer = await self._calls.find(f"get {key}", Request("GET", key, limit=limit))
        return None if answer is None else (info_of(key, answer.headers), answer.body)

    @contextlib.asynccontextmanager
    async def open(
        self, key: str, start: int = 0, stop: int | None = None, *, etag: str = ""
    ) -> AsyncIterator[ObjectReader | None]:
        """Open bytes `start` to `stop` (exclusive; None: to the end); None where no object is.

        Left before its end, the connection is closed at once. `etag`: see `Store.open`; sent as
        If-Match (RFC 9110, section 13.1.1), and compared, since some stores ignore that.
        """
        if stop is not None and stop <= start:
            info = await self.head(key)
            yield None if info is None else EmptyReader(info)
            return
        headers = range_header(start, stop) | ({"If-Match": etag} if etag else {})
        try:
            response = await self._calls.open(f"get {key}", Request("GET", key, headers=headers))
        except StoreError as error:
            cause = error.__cause__
            if etag and isinstance(cause, Failed) and cause.failure.code in _CONFLICTS:
                raise replaced(key) from error
            raise
        if response is None:
            yield None
            return
        try:
            reader = S3Reader(key, response, start, stop, self._patience.stall)
            if etag not in ("", reader.info.etag):
                raise replaced(key)
            yield reader
        finally:
            response.close()

    async def put(self, key: str, data: Buffer) -> None:
        """Store `data` whole at `key`, replacing what is there, in one step for all readers."""
        await self._calls.send(f"put {key}", Request("PUT", key, headers=_TYPE), data)

    async def put_new(self, key: str, data: Buffer) -> bool:
        """Store `data` at `key` if nothing is there; whether it was stored.

        The condition is If-None-Match (Amazon S3, "Conditional writes"). Stores that ignore it are
        why we look before and after.
        """
        if not self._conditional and await self.head(key) is not None:
            return False
        request = Request("PUT", key, headers={**_TYPE, "If-None-Match": "*"})
        try:
            await self._calls.send(f"put {key}", request, data)
        except StoreError as error:
            cause = error.__cause__
            if not isinstance(cause, Failed) or cause.failure.code not in _CONFLICTS:
                raise
        else:
            if self._conditional is None:
                self._conditional = await self._refuses_to_replace(request, data)
            if self._conditional:
                return True
        return await self.get(key, _MAX_CONDITIONAL) == bytes(data)

    async def _refuses_to_replace(self, request: Request, data: Buffer) -> bool:
        """Whether the store keeps to the condition: the same once more must be refused."""
        try:
            await self._calls.send(f"put {request.key}", request, data)
        except StoreError as error:
            cause = error.__cause__
            return isinstance(cause, Failed) and cause.failure.code in _CONFLICTS
        return False

    async def delete(self, key: str) -> None:
        """Remove the object; that there is none is no error."""
        await self._calls.find(f"delete {key}", Request("DELETE", key))

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, after `after`, in the store's order."""
        return self._list(prefix, {"start-after": self._settings.prefix + after} if after else {})

    def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object right below `prefix`, which ends in a slash."""
        return self._list(prefix, {"delimiter": "/"})

    async def _list(self, prefix: str, which: Mapping[str, str]) -> AsyncIterator[ObjectInfo]:
        own = self._settings.prefix
        async for objects in self._pages(prefix, which, lambda page: [*page.objects()]):
            for key, size, etag, modified in objects:
                yield ObjectInfo(key.removeprefix(own), size, etag, modified)

    async def names(self, prefix: str) -> Sequence[str]:
        """The keys of the same objects without `prefix`."""
        return await self._shared.ask(("names", prefix), lambda: self._names(prefix))

    async def _names(self, prefix: str) -> Sequence[str]:
        cut = len(self._settings.prefix + prefix)
        pages = self._pages(prefix, {"delimiter": "/"}, Listing.keys)
        return [key[cut:] async for found in pages for key in found]

    async def _pages(
        self, prefix: str, which: Mapping[str, str], read: Callable[[Listing], Sequence[_T]]
    ) -> AsyncIterator[Sequence[_T]]:
        """What `read` makes of each page, as part of the attempt to get it."""

        def page(body: bytes) -> tuple[Sequence[_T], str]:
            listing = Listing(body)
            return read(listing), listing.next

        query = {"list-type": "2", "prefix": self._settings.prefix + prefix, **which}
        query["encoding-type"] = "url"
        while True:
            found, after = await self._calls.call(
                f"list {prefix}", Request("GET", query=query), page
            )
            yield found
            if not after:
                return
            query["continuation-token"] = after

    async def create_multipart(self, key: str) -> Multipart:
        """Begin a multipart upload."""
        upload_id = await self._calls.call(
            f"create upload of {key}",
            Request("POST", key, {"uploads": ""}, _TYPE),
            lambda body: child(parse(body, "InitiateMultipartUploadResult"), "UploadId"),
            body=b"",
        )
        return Multipart(key, upload_id)

    async def put_part(self, upload: Multipart, number: int, offset: int, data: Buffer) -> Part:  # noqa: ARG002
        """Store `data` as part `number`. S3 needs no offset: the order of the numbers is enough."""
        query = {"partNumber": str(number), "uploadId": upload.upload_id}
        operation = f"put part {number} of {upload.key}"
        size, answer = await self._calls.send(operation, Request("PUT", upload.key, query), data)
        if (etag := answer.headers.get("ETag")) is None:
            raise understand(NotS3()).error(operation)
        return Part(number, size, etag)

    async def complete_multipart(self, upload: Multipart, parts: Sequence[Part]) -> None:
        """Make the object visible. Safe to repeat.

        Where the answer is lost or says that there is no such upload, an object of the right size
        at the key is taken for ours: a key is either one upload's own, or the digest of what only
        verified uploads are completed to.
        """
        size = sum(part.size for part in parts)

        async def settled(failure: Failure) -> bool | None:
            if not failure.lost and failure.code != "NoSuchUpload":
                return None
            return await self._has(upload.key, size) or None

        listed = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>"
            for part in parts
        )
        body = f'<CompleteMultipartUpload xmlns="{_XML}">{listed}</CompleteMultipartUpload>'
        request = Request("POST", upload.key, {"uploadId": upload.upload_id})
        await self._calls.call(
            f"complete {upload.key}",
            request,
            _completed,
            body=body.encode(),
            settled=settled,
            silence=self._patience.slow_answer,
        )

    async def abort_multipart(self, upload: Multipart) -> None:
        """Give up an upload and free its parts; that there is none is no error.

        A part that was under way may be stored after the abort that was to free it, so it is
        repeated until the store knows nothing of the upload (AWS, AbortMultipartUpload).
        """
        operation, query = f"abort {upload.key}", {"uploadId": upload.upload_id}
        for turn in range(_ABORTS):
            await asyncio.sleep(0.2 * turn)
            try:
                await self._calls.attempt(Request("DELETE", upload.key, query))
                await self._calls.attempt(Request("GET", upload.key, query))
            except Failed as failed:
                if failed.failure.code in ("NoSuchUpload", "NoSuchKey", "404"):
                    return
                raise failed.failure.error(operation) from failed

    async def list_multiparts(self, prefix: str) -> AsyncIterator[tuple[Multipart, float]]:
        """Every upload in progress whose key starts with `prefix`, and its start (Unix seconds)."""
        own = self._settings.prefix
        operation = f"list uploads of {prefix}"
        parameters = {"Prefix": own + prefix}
        while True:
            answer = await self._calls.library(operation, "list_multipart_uploads", parameters)
            for item in answer.get("Uploads", ()):
                upload = Multipart(item["Key"].removeprefix(own), item["UploadId"])
                yield upload, item["Initiated"].timestamp()
            if not answer.get("IsTruncated"):
                return
            after = {
                "KeyMarker": answer.get("NextKeyMarker", ""),
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }
            if after.items() <= parameters.items() or not after["KeyMarker"]:
                raise understand(NotS3()).error(operation)  # it would go on for ever
            parameters |= after

    async def presign(self, key: str, expires: int) -> str | None:
        """A URL that GETs `key` without us for `expires` seconds (at most seven days)."""
        return self._calls.presign(key, expires)

    async def move(self, source: str, target: str) -> None:
        """Copy within the store, then delete the source. Repeating it is no error.

        CopyObject first: Google Cloud Storage copies any size by it and has nothing else. Where
        the store refuses the size (S3: above 5 GiB), it copies part by part.
        """
        operation = f"move {source} to {target}"
        info = await self.head(source)
        if info is None:
            if await self.head(target) is None:
                raise StoreError(f"{operation}: the source does not exist", retry_after=None)
            return
        if not await self._copier.copy(operation, source, target):
            upload = await self.create_multipart(target)
            try:
                parts = await self._copier.copy_parts(operation, info, upload)
                await self.complete_multipart(upload, parts)
            except BaseException:
                await asyncio.shield(asyncio.ensure_future(self.abort_multipart(upload)))
                raise
        await self.delete(source)

    async def close(self) -> None:
        """Close the client and its connections."""
        await self._calls.close()

    async def _has(self, key: str, size: int) -> bool:
        with contextlib.suppress(StoreError):
            info = await self.head(key)
            return info is not None and info.size == size
        return False

    async def _prove_bucket(self) -> None:
        """An answer to HEAD does not tell a missing object from a missing bucket."""
        if time.monotonic() - self._calls.succeeded > _PROOF:
            await self.check()


def _completed(body: bytes) -> bool:
    """What is told behind a 200 may be an error (Amazon S3, "CompleteMultipartUpload")."""
    try:
        parse(body, "CompleteMultipartUploadResult")
    except NotS3:
        raise refused(500, body) from None
    return True
