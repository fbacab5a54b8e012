"""The HTTP session under aiobotocore: aiohttp with nothing done behind our back."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any, Final, Self

import aiohttp
from aiobotocore.awsrequest import AioAWSResponse
from botocore.exceptions import ClientError
from yarl import URL

from epoch import __version__

USER_AGENT: Final = f"epoch/{__version__}"

_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
"""In an error body (Amazon S3, "REST error responses")."""

_CONNECT: Final = 5.0
"""Seconds for name resolution, TCP and TLS; each attempt's own limit covers everything after."""
_KEEP_ALIVE: Final = 12.0
"""Seconds. Stores and their load balancers close idle connections after 15 or more."""
_READ_BUFFER: Final = 256 * 1024
"""Bytes that aiohttp collects before it stops reading, twice over."""


class HttpSession:
    """What `AioConfig(http_session_cls=...)` takes in place of aiobotocore's own class, which

    * follows redirects, with the signature, to any host;
    * sends a request a second time on its own when its connection breaks, beside our retries;
    * has a pool of 10 connections that calls wait for without limit.

    Exceptions of aiohttp pass through as they are, to `s3_errors`.
    """

    def __init__(
        self,
        *,
        verify: bool | str = True,
        proxies: Mapping[str, str] | None = None,
        **_unused: Any,
    ) -> None:
        self._verify = verify
        self._proxies = dict(proxies or {})
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # `verify` is a path where AWS_CA_BUNDLE names one; else the system's store, as in Go.
        cafile = self._verify if isinstance(self._verify, str) else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # bounded by the budget of part buffers and by the clients' connections
                ssl=ssl.create_default_context(cafile=cafile),
                keepalive_timeout=_KEEP_ALIVE,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
            skip_auto_headers={"Content-Type", "Accept-Encoding"},
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
        )
        # No public switch; `test_reset_for_ever_takes_four_attempts` notices when it goes.
        self._session._retry_connection = False
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; a second call does nothing."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def put_part(
        self, url: str, headers: dict[str, str], body: aiohttp.Payload, size: int
    ) -> str:
        """Send an UploadPart that is signed already; its etag. ClientError where it is refused,
        as aiobotocore would raise it."""
        sized = {**headers, "Content-Length": str(size)}
        status, etag, text = await self._signed("PUT", url, sized, body)
        if status != 200 or etag is None:
            raise _refused("UploadPart", status, text)
        return etag

    async def complete(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Send a CompleteMultipartUpload that is signed already. ClientError where it is refused,
        also where that is told behind a 200 (Amazon S3, "CompleteMultipartUpload")."""
        status, _, text = await self._signed("POST", url, headers, body)
        if status != 200:
            raise _refused("CompleteMultipartUpload", status, text)
        if b"<CompleteMultipartUploadResult" not in text:
            raise _refused("CompleteMultipartUpload", 500, text)

    async def _signed(
        self, method: str, url: str, headers: dict[str, str], body: aiohttp.Payload | bytes
    ) -> tuple[int, str | None, bytes]:
        if self._session is None:
            raise RuntimeError("the session is not open")
        target = URL(url, encoded=True)
        async with self._session.request(
            method,
            target,
            data=body,
            headers={**headers, "User-Agent": USER_AGENT},
            allow_redirects=False,
            proxy=self._proxies.get(target.scheme),
        ) as response:
            text = await response.read()
            return response.status, response.headers.get("ETag"), text

    async def send(self, request: Any) -> AioAWSResponse:
        """Send a botocore `AWSPreparedRequest`; the body of the answer is read unless streamed."""
        if self._session is None:
            raise RuntimeError("the session is not open")
        url = URL(request.url, encoded=True)
        headers = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        response = await self._session.request(
            request.method,
            url,
            data=request.body,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxies.get(url.scheme),
        )
        answer = AioAWSResponse(
            request.url,
            response.status,
            {name.lower(): value for name, value in response.headers.items()},
            response,
        )
        if not request.stream_output:
            # White space is what a store sends while it completes or copies an object, to keep
            # the connection open. Before an XML declaration, botocore takes it for an error.
            answer._content = (await response.read()).lstrip()
        return answer


def _refused(operation: str, status: int, text: bytes) -> ClientError:
    code = _CODE.search(text)
    return ClientError(
        {
            "Error": {"Code": code[1].decode() if code else str(status)},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },
        operation,
    )
