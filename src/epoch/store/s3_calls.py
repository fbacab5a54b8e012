"""Calls to the bucket: each with its time limits, its attempts, its body from our own memory."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from epoch.config import S3Settings
from epoch.metrics import metrics
from epoch.store.s3_errors import Failure
from epoch.store.s3_http import Answer, HttpSession
from epoch.store.s3_part import PartBody
from epoch.store.s3_retry import ATTEMPTS, Failed, Retrier
from epoch.store.s3_sign import UNSIGNED, Signer, base_url

if TYPE_CHECKING:
    import aiohttp
    from typing_extensions import Buffer

    from epoch.store.s3_client import Library

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. Every limit is for one attempt.

    `stall`: until the next piece of a body goes out or comes in. `answer`: until the answer, once
    the request is sent. `slow_answer`: the same for completing and for copying an object: "can
    take several minutes" (Google Cloud Storage, "Complete a multipart upload"). `check`: for
    the whole check at start.
    """

    stall: float = 30.0
    answer: float = 60.0
    slow_answer: float = 900.0
    check: float = 8.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whose URL and signature are made anew for each attempt.

    `key`: without the prefix; empty: the bucket. `headers`: beside those that sign it; their names
    must not begin with `x-amz-`. `limit`: bytes of the answer above which it is an error.
    """

    method: str
    key: str = ""
    query: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    limit: int | None = None

    @property
    def is_part(self) -> bool:
        """Whether it is one of those that `epoch_part_retries` counts."""
        return self.query is not None and "partNumber" in self.query


class Calls:
    """Every call to the bucket of `settings`, over connections that are made when needed."""

    def __init__(self, settings: S3Settings, patience: Patience) -> None:
        self._settings = settings
        self._patience = patience
        self._signer = Signer(
            base_url(settings), settings.access_key, settings.secret_key, settings.region
        )
        self._opened: HttpSession | None = None
        self._library: Library | None = None
        self._loading = asyncio.Lock()
        self._retrier = Retrier()
        self.succeeded = float("-inf")
        """When a call last succeeded, in seconds of the monotonic clock."""

    async def close(self) -> None:
        """Close the connections."""
        library, self._library = self._library, None
        if library is not None:
            await library.close()
        session, self._opened = self._opened, None
        if session is not None:
            await session.close()

    def presign(self, key: str, expires: int) -> str:
        """A URL that GETs an object without us for `expires` seconds (at most seven days)."""
        return self._signer.presign(self._settings.prefix + key, expires)

    # Requests

    async def find(self, operation: str, request: Request) -> Answer | None:
        """The answer to a request; None where there is no such object."""
        try:
            return await self.attempt(request)
        except Failed as failed:
            if failed.failure.missing:
                return None
            raise failed.failure.error(operation) from failed

    async def call(
        self,
        operation: str,
        request: Request,
        read: Callable[[bytes], _T],
        *,
        body: bytes | None = None,
        settled: Callable[[Failure], Awaitable[_T | None]] | None = None,
        silence: float | None = None,
        attempts: int = ATTEMPTS,
    ) -> _T:
        """What `read` makes of the answer's body, as part of the attempt; `StoreError`, which
        begins with `operation`, when it failed.

        `body`: of the request, signed too. `settled`: see `Retrier.run`. `silence`: the limit for
        one attempt, in seconds.
        """

        async def attempt() -> _T:
            return read((await self._once(request, silence, body)).body)

        try:
            return await self._run(attempt, attempts, settled)
        except Failed as failed:
            raise failed.failure.error(operation) from failed

    async def attempt(self, request: Request) -> Answer:
        """The answer to a request, or `Failed`."""
        return await self._run(lambda: self._once(request))

    async def open(self, operation: str, request: Request) -> aiohttp.ClientResponse | None:
        """A request whose answer is still to be read, and then to be closed; None where there is
        no such object."""

        async def attempt() -> aiohttp.ClientResponse:
            async with asyncio.timeout(self._patience.answer):
                url, headers = self._sign(request)
                return await self._session().open(request.method, url, headers)

        try:
            return await self._run(attempt)
        except Failed as failed:
            if failed.failure.missing:
                return None
            raise failed.failure.error(operation) from failed

    async def send(self, operation: str, request: Request, data: Buffer) -> tuple[int, Answer]:
        """A request whose body is `data`. Returns the size and the answer.

        However it ends, no view of `data` is left then, and nothing sends from it.
        """
        patience = self._patience
        again = False
        with memoryview(data) as whole, whole.cast("B") as view:
            size = view.nbytes

            async def attempt() -> Answer:
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
                        return await self._session().request(request.method, url, headers, body)
                    finally:
                        await body.settle()

            try:
                return size, await self._run(attempt)
            except Failed as failed:
                raise failed.failure.error(operation) from failed

    # What stays with aiobotocore

    async def library(
        self,
        operation: str,
        method: str,
        parameters: Mapping[str, Any],
        *,
        silence: float | None = None,
    ) -> Any:
        """Call a method of aiobotocore's client."""
        try:
            return await self.attempt_library(method, parameters, silence=silence)
        except Failed as failed:
            raise failed.failure.error(operation) from failed

    async def attempt_library(
        self, method: str, parameters: Mapping[str, Any], *, silence: float | None = None
    ) -> Any:
        """The same, but raises `Failed`."""
        async with self._loading:
            if self._library is None:
                module = await asyncio.to_thread(_load_library)
                self._library = module.Library(self._settings, self._session())
        library = self._library

        async def attempt() -> Any:
            async with asyncio.timeout(silence or self._patience.answer):
                return await library.call(method, dict(parameters))

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
            self._opened = HttpSession(self._settings)
        return self._opened

    def _sign(self, request: Request, payload: str = UNSIGNED) -> tuple[str, dict[str, str]]:
        key = self._settings.prefix + request.key if request.key else ""
        url, headers = self._signer.sign(request.method, key, request.query, payload)
        return url, headers if request.headers is None else {**headers, **request.headers}

    async def _run(
        self,
        attempt: Callable[[], Awaitable[_T]],
        attempts: int = ATTEMPTS,
        settled: Callable[[Failure], Awaitable[_T | None]] | None = None,
    ) -> _T:
        result = await self._retrier.run(attempt, attempts=attempts, settled=settled)
        self.succeeded = time.monotonic()
        return result


def _load_library() -> Any:
    from epoch.store import s3_client

    return s3_client
