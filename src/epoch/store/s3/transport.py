"""The connections to the bucket: aiohttp with nothing done behind our back."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from epoch import __version__
from epoch.config import S3Settings, SettingsError
from epoch.store.s3.errors import TooLarge, refused

USER_AGENT: Final = f"epoch/{__version__}"

_CONNECT: Final = 5.0
"""Seconds for name resolution, TCP and TLS; each attempt's own limit covers everything after."""
_KEEP_ALIVE: Final = 12.0
"""Seconds. Stores and their load balancers close idle connections after 15 or more."""
_READ_BUFFER: Final = 64 * 1024
"""Bytes that aiohttp collects before it stops reading, twice over, and what comes at once."""
_ERROR: Final = 64 * 1024
"""Bytes of an error body. What is longer is no S3 store's."""
_CA_FILE: Final = "AWS_CA_BUNDLE"
"""Names the certificates to trust, and no others, as for other programs that speak S3. Without it
OpenSSL asks SSL_CERT_FILE and SSL_CERT_DIR, as Go does, and then the system."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store answered, read to its end."""

    status: int
    headers: Mapping[str, str]
    """By name in any case."""
    body: bytes


def trusted(settings: S3Settings) -> ssl.SSLContext | None:
    """Whom to trust where the environment names it; None: whom OpenSSL does.

    `SettingsError`: the file cannot be used.
    """
    path = os.environ.get(_CA_FILE)
    if not path or not settings.secure:
        return None
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise SettingsError(f"{_CA_FILE}: {path} holds no certificate in PEM") from None
    except OSError as error:
        raise SettingsError(f"{_CA_FILE}: cannot read {path}: {error.strerror}") from None


class HttpSession:
    """An aiohttp session that

    * does not follow redirects, which would take the signature to any host;
    * does not send a request a second time on its own when its connection breaks;
    * has as many connections as are needed at once.

    Exceptions of aiohttp pass through as they are, to `errors`; an answer other than of success
    raises `Refused`.
    """

    def __init__(self, trust: ssl.SSLContext | None, proxy: str | None) -> None:
        """To be called within the loop. `trust`: see `trusted`. `proxy`: the URL of what all
        requests go through."""
        self._proxy = proxy
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # bounded by the budget of part buffers and by the clients' connections
                ssl=trust or True,  # aiohttp has read OpenSSL's when it was imported
                keepalive_timeout=_KEEP_ALIVE,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
            headers={"User-Agent": USER_AGENT},
            skip_auto_headers={"Content-Type", "Accept-Encoding"},
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
        )
        # No public switch; `test_a_request_is_never_sent_twice_by_aiohttp` notices when it goes.
        self._session._retry_connection = False

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: aiohttp.Payload | bytes | None = None,
        limit: int | None = None,
    ) -> Answer:
        """A request that is signed already. `TooLarge`: the answer has more than `limit` bytes."""
        response = await self.open(method, url, headers, body)
        try:
            content = await _read(response, limit)
            return Answer(response.status, response.headers, content)
        finally:
            response.close()

    async def open(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: aiohttp.Payload | bytes | None = None,
    ) -> aiohttp.ClientResponse:
        """The same, but the body of the answer is still to be read. To be closed."""
        response = await self._session.request(
            method,
            URL(url, encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
        )
        if response.status < 300:
            return response
        try:
            raise refused(response.status, await _read(response, _ERROR))
        except TooLarge:
            raise refused(response.status, b"") from None
        finally:
            response.close()


async def _read(response: aiohttp.ClientResponse, limit: int | None) -> bytes:
    """The whole body. `TooLarge`: it has more than `limit` bytes."""
    if limit is None:
        return await response.read()
    if (size := response.content_length or 0) > limit:
        raise TooLarge(size)
    body = bytearray()
    # Its length is not always announced.
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > limit:
            raise TooLarge(len(body))
    return bytes(body)
