"""Calls to the bucket: each with its time limits, its attempts, its body from our own memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from epoch.config import S3Settings
from epoch.metrics import metrics
from epoch.store.base import ObjectInfo
from epoch.store.s3.errors import Failure, NotS3, Unconfirmed, misleading
from epoch.store.s3.part_body import PartBody
from epoch.store.s3.proxy import proxy_for
from epoch.store.s3.reader import info_of
from epoch.store.s3.retry import Failed, Retrier
from epoch.store.s3.signing import UNSIGNED, Signer, base_url
from epoch.store.s3.transport import Answer, HttpSession, trusted
from epoch.store.s3.xml import parse

if TYPE_CHECKING:
    import aiohttp
    from typing_extensions import Buffer

_T = TypeVar("_T")

_PROOF: Final = 5.0
"""Seconds for which a success proves that the bucket is there."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. Every limit but `repeat` is for one attempt.

    `stall`: until the next piece of a body goes out or comes in. `answer`: until the answer, once
    the request is sent. `slow_answer`: the same for completing and for copying an object: "can
    take several minutes" (Google Cloud Storage, "Complete a multipart upload"). `check`: for
    the whole check at start. `repeat`: how long a call is repeated after its first failure.
    """

    stall: float = 30.0
    answer: float = 60.0
    slow_answer: float = 900.0
    check: float = 8.0
    repeat: float = 120.0

    @property
    def longest(self) -> float:
        """What a call about a small object may take in all: its first attempt, the repetitions, the
        last attempt, and a look at the bucket after a 404."""
        return self.answer + self.repeat + self.answer + self.check


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whose URL and signature are made anew for each attempt.

    `key`: without the prefix; empty: the bucket. `headers`: beside those that sign it; their names
    must not begin with `x-amz-`. `amz`: those that do, in lower case, which are signed. `limit`:
    bytes of the answer above which it is an error.
    """

    method: str
    key: str = ""
    query: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    amz: Mapping[str, str] | None = None
    limit: int | None = None

    @property
    def is_part(self) -> bool:
        """Whether it is one of those that `epoch_part_retries` counts."""
        return self.query is not None and "partNumber" in self.query


class Sent(NamedTuple):
    """A body that the store has taken: its size in bytes, and the etag it was given."""

    size: int
    etag: str


class Calls:
    """Every call to the bucket of `settings`, over connections that are made when needed."""

    def __init__(self, settings: S3Settings, patience: Patience) -> None:
        """`SettingsError`: the environment names a proxy or certificates that are of no use."""
        self._settings = settings
        self._patience = patience
        base = base_url(settings)
        self._proxy = proxy_for(base)
        self._trust = trusted(settings)
        self._signer = Signer(base, settings.access_key, settings.secret_key, settings.region)
        self._opened: HttpSession | None = None
        self._retrier = Retrier(patience.repeat)
        self._succeeded = float("-inf")  # when a call last did, on the monotonic clock

    async def close(self) -> None:
        """Close the connections."""
        session, self._opened = self._opened, None
        if session is not None:
            await session.close()

    def presign(self, key: str, expires: int) -> str:
        """A URL that GETs an object without us for `expires` seconds (at most seven days)."""
        return self._signer.presign(self._settings.prefix + key, expires)

    # Requests

    async def check(self, operation: str, *, once: bool) -> None:
        """Prove that the bucket is there and may be listed; `StoreError` where it is not."""
        # Not HeadBucket: an answer to HEAD has no body, so no error code.
        query = {"list-type": "2", "prefix": self._settings.prefix, "max-keys": "1"}
        await self.call(
            operation,
            Request("GET", query=query),
            lambda body: parse(body, "ListBucketResult"),
            silence=self._patience.check,
            once=once,
        )

    async def find(
        self, operation: str, request: Request, read: Callable[[Answer], _T], *, once: bool = False
    ) -> _T | None:
        """What `read` makes of the answer, as part of the attempt; None where there is no such
        object."""

        async def attempt() -> _T:
            answer = await self._once(request)
            if answer.status not in (200, 204):
                raise NotS3(f"its status is {answer.status}")
            return read(answer)

        with _naming(operation):
            try:
                return await self._run(attempt, once=once)
            except Failed as failed:
                await self._prove_missing(failed)
                return None

    async def head(self, key: str, *, once: bool = False) -> ObjectInfo | None:
        """What is known of the object at `key`; None: there is none."""
        return await self.find(
            f"head {key}",
            Request("HEAD", key),
            lambda answer: info_of(key, answer.headers),
            once=once,
        )

    async def call(
        self,
        operation: str,
        request: Request,
        read: Callable[[bytes], _T],
        *,
        body: bytes | None = None,
        settled: Callable[[Failure], Awaitable[_T | None]] | None = None,
        silence: float | None = None,
        once: bool = False,
    ) -> _T:
        """What `read` makes of the answer's body, as part of the attempt; `StoreError`, which
        begins with `operation`, when it failed.

        `body`: of the request, signed too. `settled`, `once`: see `Retrier.run`. `silence`: the
        limit for one attempt, in seconds.
        """

        async def attempt() -> _T:
            return read((await self._once(request, silence, body)).body)

        with _naming(operation):
            return await self._run(attempt, once=once, settled=settled)

    async def attempt(self, request: Request) -> Answer:
        """The answer to a request, or `Failed`."""
        return await self._run(lambda: self._once(request))

    async def open(self, operation: str, request: Request) -> aiohttp.ClientResponse | None:
        """A request for an object, whose answer is still to be read, and then to be closed; None
        where there is no such object."""

        async def attempt() -> aiohttp.ClientResponse:
            async with asyncio.timeout(self._patience.answer):
                url, headers = self._sign(request)
                response = await self._session().open(request.method, url, headers)
            try:
                info_of(request.key, response.headers)
                if response.status != 200 and not request.headers:
                    raise NotS3(f"its status is {response.status}")
            except NotS3:
                response.close()
                raise
            return response

        with _naming(operation):
            try:
                return await self._run(attempt)
            except Failed as failed:
                await self._prove_missing(failed)
                return None

    async def send(
        self, operation: str, request: Request, data: Buffer, *, once: bool = False
    ) -> Sent:
        """A request whose body is `data`, an object or a part of one.

        However it ends, no view of `data` is left then, and nothing sends from it.
        """
        patience = self._patience
        again = False
        with memoryview(data) as whole, whole.cast("B") as view:
            size = view.nbytes

            async def attempt() -> Sent:
                nonlocal again
                metrics.part_retries += again and request.is_part
                again = True
                async with asyncio.timeout(patience.answer) as limit:
                    body = PartBody(
                        view,
                        tls=self._settings.secure,
                        limit=limit,
                        stall=patience.stall,
                        silence=patience.answer,
                    )
                    try:
                        url, headers = self._sign(request)
                        headers["Content-Length"] = str(size)
                        answer = await self._session().request(request.method, url, headers, body)
                    finally:
                        await body.settle()
                return Sent(size, _etag(answer))

            with _naming(operation):
                return await self._run(attempt, once=once)

    async def confirm(self, key: str, size: int, etag: str | None = None) -> None:
        """Look whether an object of that size, and with that etag, is at `key`: what is not shown
        is not stored, whatever was answered before. Else `Unconfirmed`."""
        info = await self.head(key)
        if info is None or info.size != size:
            raise Unconfirmed
        if etag is not None and plain(info.etag) != plain(etag):
            raise Unconfirmed

    async def repeat(self, operation: str, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """The result of an attempt that makes calls of its own, repeated where it is `Unconfirmed`
        what they have done."""
        with _naming(operation):
            return await self._run(attempt)

    # What they share

    async def _once(
        self, request: Request, silence: float | None = None, body: bytes | None = None
    ) -> Answer:
        payload = UNSIGNED if body is None else hashlib.sha256(body).hexdigest()
        async with asyncio.timeout(silence or self._patience.answer):
            url, headers = self._sign(request, payload)
            return await self._session().request(
                request.method, url, headers, body, limit=request.limit
            )

    def _session(self) -> HttpSession:
        if self._opened is None:
            self._opened = HttpSession(self._trust, self._proxy)
        return self._opened

    def _sign(self, request: Request, payload: str = UNSIGNED) -> tuple[str, dict[str, str]]:
        key = self._settings.prefix + request.key if request.key else ""
        url, headers = self._signer.sign(
            request.method, key, request.query, payload, amz=request.amz
        )
        return url, headers if request.headers is None else {**headers, **request.headers}

    async def _run(
        self,
        attempt: Callable[[], Awaitable[_T]],
        *,
        once: bool = False,
        settled: Callable[[Failure], Awaitable[_T | None]] | None = None,
    ) -> _T:
        result = await self._retrier.run(attempt, once=once, settled=settled)
        self._succeeded = time.monotonic()
        return result

    async def _prove_missing(self, failed: Failed) -> None:
        """Return where there is no such object; else raise `failed`, or what is wrong with the
        bucket: without S3's own code, a 404 may also be a missing bucket's, or another server's."""
        if not failed.failure.missing:
            raise failed
        proved = time.monotonic() - self._succeeded <= _PROOF
        if failed.failure.code != "NoSuchKey" and not proved:
            await self.check(f"open bucket {self._settings.bucket}", once=False)


@contextlib.contextmanager
def _naming(operation: str) -> Iterator[None]:
    """Make `Failed` the error that the rest of Epoch gets to see."""
    try:
        yield
    except Failed as failed:
        raise failed.failure.error(operation) from failed


def plain(etag: str) -> str:
    """An etag without its quotes, which some stores send in one answer and not in the other."""
    return etag.removeprefix("W/").strip('"')


def _etag(answer: Answer) -> str:
    """The etag of an object or part that was sent. `NotS3`: the answer, though of success, is not
    what a store says that has taken it (Amazon S3, "PutObject", "UploadPart")."""
    if answer.body.strip():
        raise misleading(answer.body)
    etag = answer.headers.get("ETag")
    if not etag:
        raise NotS3("it lacks ETag")
    return etag
