"""Calls to the bucket: each with its time limits, its attempts, its body from our own memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from epoch.config import S3Settings
from epoch.metrics import metrics
from epoch.store.s3_client import open_client
from epoch.store.s3_errors import Failure
from epoch.store.s3_http import HttpSession
from epoch.store.s3_part import PartBody
from epoch.store.s3_retry import ATTEMPTS, Failed, Retrier
from epoch.store.s3_sign import Signer

if TYPE_CHECKING:
    from typing_extensions import Buffer


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


class Calls:
    """The one client of a store, made when it is first needed, and every call through it."""

    def __init__(self, settings: S3Settings, patience: Patience) -> None:
        self._settings = settings
        self._patience = patience
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened: Any = None
        self._retrier = Retrier()
        self._signer: Signer | None = None
        self.succeeded = float("-inf")
        """When a call last succeeded, in seconds of the monotonic clock."""

    async def client(self) -> Any:
        """The aiobotocore client."""
        if self._opened is None:
            async with self._opening:
                if self._opened is None:
                    self._opened = await open_client(self._settings, self._stack)
        return self._opened

    async def close(self) -> None:
        """Close the client and its connections."""
        self._opened = None
        await self._stack.aclose()

    async def find(
        self,
        operation: str,
        method: str,
        parameters: Mapping[str, Any],
        then: Callable[[Mapping[str, Any]], Awaitable[Any]] | None = None,
    ) -> Any:
        """Like `call`; None where there is no such object."""
        try:
            return await self.attempt_call(method, parameters, then=then)
        except Failed as failed:
            if failed.failure.missing:
                return None
            raise failed.failure.error(operation) from failed

    async def call(
        self,
        operation: str,
        method: str,
        parameters: Mapping[str, Any],
        *,
        silence: float | None = None,
        attempts: int = ATTEMPTS,
        settled: Callable[[Failure], Awaitable[Any]] | None = None,
    ) -> Any:
        """A call without a body; `StoreError`, which begins with `operation`, when it failed."""
        try:
            return await self.attempt_call(
                method, parameters, silence=silence, attempts=attempts, settled=settled
            )
        except Failed as failed:
            raise failed.failure.error(operation) from failed

    async def attempt_call(
        self,
        method: str,
        parameters: Mapping[str, Any],
        *,
        silence: float | None = None,
        attempts: int = ATTEMPTS,
        then: Callable[[Mapping[str, Any]], Awaitable[Any]] | None = None,
        settled: Callable[[Failure], Awaitable[Any]] | None = None,
    ) -> Any:
        """Like `call`, but raises `Failed`. `silence`: the limit for one attempt. `then` reads a
        streamed answer, as part of the attempt. `settled`: see `Retrier.run`."""
        client = await self.client()

        async def attempt() -> Any:
            async with asyncio.timeout(silence or self._patience.answer):
                answer = await getattr(client, method)(Bucket=self._settings.bucket, **parameters)
                return answer if then is None else await then(answer)

        return await self._run(attempt, attempts, settled)

    async def send(
        self, operation: str, method: str, parameters: Mapping[str, Any], data: Buffer
    ) -> tuple[int, Any]:
        """A call whose body is `data`. Returns the size and the answer.

        However it ends, no view of `data` is left then, and nothing sends from it.
        """
        client = await self.client()

        async def request(body: PartBody, size: int) -> Any:
            return await getattr(client, method)(
                Bucket=self._settings.bucket, Body=body, ContentLength=size, **parameters
            )

        return await self._send(operation, request, data)

    async def send_part(
        self, operation: str, key: str, upload_id: str, number: int, data: Buffer
    ) -> tuple[int, str]:
        """UploadPart, signed by ourselves. `key` with the prefix. Returns the size and the etag;
        the same holds for `data` as in `send`."""
        signer, session = await self._by_ourselves()
        again = False

        async def request(body: PartBody, size: int) -> str:
            nonlocal again
            metrics.part_retries += again
            again = True
            url, headers = signer.part(key, upload_id, number)
            return await session.put_part(url, headers, body, size)

        return await self._send(operation, request, data)

    async def complete(
        self,
        operation: str,
        key: str,
        upload_id: str,
        body: bytes,
        settled: Callable[[Failure], Awaitable[Any]],
    ) -> None:
        """CompleteMultipartUpload, signed by ourselves. `key` with the prefix; `body`: the list of
        parts; `settled`: see `Retrier.run`."""
        signer, session = await self._by_ourselves()

        async def attempt() -> bool:
            url, headers = signer.complete(key, upload_id, body)
            async with asyncio.timeout(self._patience.slow_answer):
                await session.complete(url, headers, body)
            return True

        try:
            await self._run(attempt, settled=settled)
        except Failed as failed:
            raise failed.failure.error(operation) from failed

    async def _by_ourselves(self) -> tuple[Signer, HttpSession]:
        client = await self.client()
        if self._signer is None:
            self._signer = await self._make_signer(client)
        # Not public, but the one way to the connections and settings that the client uses.
        return self._signer, client._endpoint.http_session

    async def _make_signer(self, client: Any) -> Signer:
        # The client knows how this bucket is addressed: by path, or as a host.
        name = "key"
        address = {"Bucket": self._settings.bucket, "Key": name}
        url: str = await client.generate_presigned_url("get_object", Params=address)
        base = url.partition("?")[0].removesuffix(name)
        settings = self._settings
        return Signer(base, settings.access_key, settings.secret_key, client.meta.region_name)

    async def _send(
        self,
        operation: str,
        request: Callable[[PartBody, int], Awaitable[Any]],
        data: Buffer,
    ) -> tuple[int, Any]:
        patience = self._patience
        with memoryview(data) as whole, whole.cast("B") as view:
            size = view.nbytes

            async def attempt() -> Any:
                async with asyncio.timeout(patience.answer) as limit:
                    body = PartBody(
                        view,
                        tls=self._settings.secure,
                        limit=limit,
                        stall=patience.stall,
                        silence=patience.answer,
                    )
                    try:
                        return await request(body, size)
                    finally:
                        await body.settle()

            try:
                return size, await self._run(attempt)
            except Failed as failed:
                raise failed.failure.error(operation) from failed

    async def _run(
        self,
        attempt: Callable[[], Awaitable[Any]],
        attempts: int = ATTEMPTS,
        settled: Callable[[Failure], Awaitable[Any]] | None = None,
    ) -> Any:
        result = await self._retrier.run(attempt, attempts=attempts, settled=settled)
        self.succeeded = time.monotonic()
        return result
