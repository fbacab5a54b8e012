"""A store in an S3-compatible bucket.

To be imported only where a bucket is configured: it loads aiohttp, which takes 0.1 s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from xml.sax.saxutils import escape

from epoch import log
from epoch.config import S3Settings
from epoch.single_flight import SingleFlight
from epoch.store.base import Multipart, ObjectInfo, ObjectReader, Part, StoreError, replaced
from epoch.store.etags import is_md5_of
from epoch.store.s3.calls import Calls, Patience, Request, Sent
from epoch.store.s3.errors import Failure, NotS3, misleading
from epoch.store.s3.lists import Lists
from epoch.store.s3.move import Copier
from epoch.store.s3.reader import EmptyReader, S3Reader, info_of, range_header
from epoch.store.s3.retry import Failed
from epoch.store.s3.transport import Answer
from epoch.store.s3.xml import child, parse

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
_MAX_MD5: Final = 64 * 1024
"""Bytes of the largest object whose MD5 we compute, 0.1 ms: above, one HEAD costs less."""
_ABORTS: Final = 4
_ABORTED_LATER: Final = 60.0
"""Seconds after which to try again to abort what would not go."""


class S3Store:
    """`Store` over the bucket of `settings`."""

    min_part_size = 5 * 1024 * 1024

    def __init__(self, settings: S3Settings, patience: Patience | None = None) -> None:
        """`SettingsError`: see `Calls`."""
        self._settings = settings
        self._patience = patience or Patience()
        self._calls = Calls(settings, self._patience)
        self._lists = Lists(self._calls, settings.prefix)
        self._single_flight = SingleFlight(self._patience.longest)
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
        await self._calls.check(f"open {self.description}", once=True)

    async def head(self, key: str) -> ObjectInfo | None:
        """The object at `key`, or None."""
        return await self._ask(f"head {key}", lambda: self._calls.head(key))

    async def get(self, key: str, limit: int) -> bytes | None:
        """The whole object, or None where there is none. `StoreError` above `limit` bytes."""
        found = await self._fetch(key, limit)
        return None if found is None else found[1]

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """The same, and what is known about it."""
        return await self._ask(f"get {limit} bytes of {key}", lambda: self._fetch(key, limit))

    async def _fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        def read(answer: Answer) -> tuple[ObjectInfo, bytes]:
            return info_of(key, answer.headers), answer.body

        return await self._calls.find(f"get {key}", Request("GET", key, limit=limit), read)

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
            if etag and _is_conflict(error):
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
        await self._put(Request("PUT", key, headers=_TYPE), data)

    async def put_new(self, key: str, data: Buffer) -> bool:
        """Store `data` at `key` if nothing is there; whether it was stored.

        The condition is If-None-Match (Amazon S3, "Conditional writes"). Stores that ignore it are
        why we look before and after.
        """
        if not self._conditional and await self.head(key) is not None:
            return False
        request = Request("PUT", key, headers={**_TYPE, "If-None-Match": "*"})
        try:
            await self._put(request, data)
        except StoreError as error:
            if not _is_conflict(error):
                raise
        else:
            if self._conditional is None:
                self._conditional = await self._refuses_to_replace(request, data)
            if self._conditional:
                return True
        return await self.get(key, _MAX_CONDITIONAL) == bytes(data)

    async def _put(self, request: Request, data: Buffer) -> None:
        """Store an object, and return only when it is known to be there."""
        operation = f"put {request.key}"

        async def attempt() -> None:
            sent = await self._calls.send(operation, request, data)
            if not _is_md5(sent, data):
                await self._calls.confirm(request.key, sent.size, sent.etag)

        await self._calls.repeat(operation, attempt)

    async def _refuses_to_replace(self, request: Request, data: Buffer) -> bool | None:
        """Whether the store keeps to the condition: the same once more must be refused. None: it
        said neither, and the next one who writes may find out."""
        try:
            await self._calls.send(f"put {request.key}", request, data, once=True)
        except StoreError as error:
            return True if _is_conflict(error) else None
        return False

    async def make_durable(self, keys: Sequence[str]) -> None:
        """Nothing to do: what a bucket shows is durable."""

    async def delete(self, key: str) -> None:
        """Remove the object; that there is none is no error."""
        await self._calls.find(f"delete {key}", Request("DELETE", key), _deleted)

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, after `after`, in the store's order."""
        which = {"start-after": self._settings.prefix + after} if after else {}
        return self._lists.objects(prefix, which)

    def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object right below `prefix`, which ends in a slash."""
        return self._lists.objects(prefix, {"delimiter": "/"})

    async def names(self, prefix: str) -> Sequence[str]:
        """The keys of the same objects without `prefix`."""
        return await self._ask(f"list {prefix}", lambda: self._lists.names(prefix))

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
        sent = await self._calls.send(operation, Request("PUT", upload.key, query), data)
        return Part(number, sent.size, sent.etag)

    async def sync_parts(self, upload: Multipart) -> None:
        """Nothing to do: a part that a bucket has acknowledged is durable."""

    async def complete_multipart(self, upload: Multipart, parts: Sequence[Part]) -> None:
        """Make the object visible. Safe to repeat.

        Where the answer is lost or says that there is no such upload, an object of the right size
        at the key is taken for ours: a key is either one upload's own, or the digest of what only
        verified uploads are completed to.
        """
        size = sum(part.size for part in parts)

        async def settled(failure: Failure) -> bool | None:
            if failure.code == "NoSuchUpload":
                return await self._has(upload.key, size) or None
            if failure.lost:
                # Once: where the store does not say it now, completing is repeated anyway.
                with contextlib.suppress(StoreError):
                    return await self._has(upload.key, size, once=True) or None
            return None

        listed = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>"
            for part in parts
        )
        body = f'<CompleteMultipartUpload xmlns="{_XML}">{listed}</CompleteMultipartUpload>'
        operation = f"complete {upload.key}"

        async def attempt() -> None:
            is_seen = await self._calls.call(
                operation,
                Request("POST", upload.key, {"uploadId": upload.upload_id}),
                _completed,
                body=body.encode(),
                settled=settled,
                silence=self._patience.slow_answer,
            )
            if not is_seen:
                await self._calls.confirm(upload.key, size)

        await self._calls.repeat(operation, attempt)

    async def abort_multipart(self, upload: Multipart) -> None:
        """Give up an upload and free its parts; that there is none is no error.

        A part that was under way may be stored after the abort that was to free it, so it is
        repeated until the store knows nothing of the upload (AWS, AbortMultipartUpload).
        `StoreError` where it still does then.
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
        raise StoreError(
            f"{operation}: the store still has the upload after {_ABORTS} aborts",
            retry_after=_ABORTED_LATER,
        )

    def list_multiparts(self, prefix: str) -> AsyncIterator[tuple[Multipart, float]]:
        """Every upload in progress whose key starts with `prefix`, and its start (Unix seconds)."""
        return self._lists.uploads(prefix)

    async def presign(self, key: str, expires: int) -> str | None:
        """A URL that GETs `key` without us for `expires` seconds (at most seven days)."""
        return self._calls.presign(key, expires)

    async def move(self, source: str, target: str, size: int) -> None:
        """Copy within the store, then delete the source. Repeating it is no error.

        The source is deleted only when an object of `size` bytes has been seen at the target.
        CopyObject first: Google Cloud Storage copies any size by it and has nothing else. Where
        the store refuses the size (S3: above 5 GiB), it copies part by part.
        """
        operation = f"move {source} to {target}"
        info = await self.head(source)
        if info is None:
            if not await self._has(target, size):
                raise StoreError(f"{operation}: the source does not exist", retry_after=None)
            return
        if info.size != size:
            text = f"{operation}: the source has {info.size} bytes where {size} were stored"
            raise StoreError(text, retry_after=None)
        if not await self._copier.copy(operation, info, target):
            upload = await self.create_multipart(target)
            try:
                parts = await self._copier.copy_parts(operation, info, upload)
                await self.complete_multipart(upload, parts)
            except BaseException:
                await asyncio.shield(asyncio.ensure_future(self._give_up(upload)))
                raise
        await self.delete(source)

    async def _give_up(self, upload: Multipart) -> None:
        try:
            await self.abort_multipart(upload)
        except StoreError as error:
            log.warn("an upload could not be aborted; it is left in the store", reason=error)

    async def close(self) -> None:
        """Close the client and its connections."""
        await self._calls.close()

    async def _has(self, key: str, size: int, *, once: bool = False) -> bool:
        info = await self._calls.head(key, once=once)
        return info is not None and info.size == size

    async def _ask(self, question: str, function: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """The answer to what many may ask at once; see `SingleFlight`."""
        try:
            return await self._single_flight.do(question, function)
        except TimeoutError:
            # Of those who waited: our own calls turn theirs into `StoreError`.
            raise StoreError(f"{question}: the store answers nobody who asks for this") from None


def _is_conflict(error: StoreError) -> bool:
    cause = error.__cause__
    return isinstance(cause, Failed) and cause.failure.code in _CONFLICTS


def _is_md5(sent: Sent, data: Buffer) -> bool:
    """Whether the etag proves that the store has these very bytes, where that is cheap to see. It
    may be something else, such as in a bucket that encrypts (Amazon S3, "Object", ETag)."""
    return sent.size <= _MAX_MD5 and is_md5_of(sent.etag, data)


def _deleted(answer: Answer) -> bool:
    """`NotS3` or `Refused` where it only looks like success."""
    if answer.body.strip():
        raise misleading(answer.body)
    return True


def _completed(body: bytes) -> bool:
    """Reads the body of a 200, which may carry an error (Amazon S3, "CompleteMultipartUpload").
    Returns False: the object has not been seen yet."""
    try:
        parse(body, "CompleteMultipartUploadResult")
    except NotS3:
        raise misleading(body) from None
    return False
