"""An object, or a range of one, streaming from an S3 store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from epoch.store.base import ObjectInfo, OpenSocket, StoreError
from epoch.store.s3.errors import NotS3, understand

if TYPE_CHECKING:
    import aiohttp

_WORTH_A_CONNECTION: Final = 1024 * 1024
"""Bytes of an answer from which on it is read around aiohttp, which costs a new connection."""


def info_of(key: str, headers: Mapping[str, str]) -> ObjectInfo:
    """From the header of the answer to a HEAD or a GET of the whole object.

    `NotS3` where it lacks a field that every store sends: whatever answered, such as a proxy with a
    page of its own, it was not the store, and what it said is no object.
    """
    try:
        size, etag = int(headers["Content-Length"]), headers["ETag"]
        modified = _seconds(headers["Last-Modified"])
    except KeyError as error:
        raise NotS3(f"it lacks {error.args[0]}") from None
    except ValueError:
        raise NotS3("its size or date is none") from None
    return ObjectInfo(key, size, etag, modified)


@lru_cache(maxsize=1024)
def _seconds(date: str) -> float:
    """An HTTP date (RFC 9110, section 5.6.7) as Unix time. Reading one costs more than signing a
    request, and the same few objects are asked for again and again."""
    return parsedate_to_datetime(date).timestamp()


def range_header(start: int, stop: int | None) -> dict[str, str]:
    """The parameter that asks for bytes `start` to `stop`; nothing where that is the whole."""
    if start == 0 and stop is None:
        return {}
    return {"Range": f"bytes={start}-" + ("" if stop is None else str(stop - 1))}


class S3Reader:
    """`ObjectReader` over the answer to a GET, which its opener closes.

    `stall`: seconds that may pass until the next bytes come.
    """

    def __init__(
        self,
        key: str,
        response: aiohttp.ClientResponse,
        start: int,
        stop: int | None,
        stall: float,
    ) -> None:
        info = info_of(key, response.headers)  # which has worked before
        self._expected = info.size
        self._stall = stall
        self._response = response
        if range_header(start, stop):
            size = _size_in(response.headers.get("Content-Range", ""), start)
            wanted = (size if stop is None else min(stop, size)) - start
            if wanted != info.size:
                raise StoreError(f"read {key}: the store answered with another range")
            info = ObjectInfo(key, size, info.etag, info.modified)
        self.info = info

    def fileno(self) -> None:
        """None: there is no file."""
        return

    def take_socket(self) -> OpenSocket | None:
        """The connection's, where it is not encrypted and enough is still to come.

        It is of no more use for other requests then: it is closed when the answer is.
        """
        connection = self._response.connection
        # None: the answer has come to its end, well or not.
        transport = None if connection is None else connection.transport
        if (
            transport is None
            or self._expected < _WORTH_A_CONNECTION
            or transport.get_extra_info("sslcontext") is not None
            or "Transfer-Encoding" in self._response.headers
        ):
            return None
        first = bytearray()
        # Each read lets aiohttp's parser go on with what it has not looked at yet.
        while chunk := self._response.content.read_nowait():
            first += chunk
        if len(first) == self._expected:  # the connection is not ours any more
            return OpenSocket(bytes(first), -1, self._stall)
        transport.pause_reading()
        return OpenSocket(bytes(first), transport.get_extra_info("socket").fileno(), self._stall)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._expected
        while left > 0:
            try:
                async with asyncio.timeout(self._stall):
                    chunk = await self._response.content.readany()
            except Exception as error:
                raise understand(error).error(f"read {self.info.key}") from error
            if not chunk:
                raise StoreError(f"read {self.info.key}: the store cut it short by {left} bytes")
            left -= len(chunk)
            yield chunk


class EmptyReader:
    """`ObjectReader` over no bytes of an object; a range header cannot ask for none."""

    def __init__(self, info: ObjectInfo) -> None:
        self.info = info

    def fileno(self) -> None:
        """None: there is no file."""
        return

    def take_socket(self) -> None:
        """None: there is nothing to be had from it."""
        return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for nothing in range(0):
            yield bytes(nothing)


def _size_in(content_range: str, start: int) -> int:
    """The object's size in `bytes <start>-<last>/<size>` (RFC 9110, section 14.4), or -1."""
    span, slash, size = content_range.removeprefix("bytes ").partition("/")
    if not slash or not size.isdecimal() or span.partition("-")[0] != str(start):
        return -1
    return int(size)
