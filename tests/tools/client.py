"""A client that shows the wire: sends what it is told, in the pieces it is told, and cuts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

_LIMIT: Final = 30.0
"""Seconds that any answer may take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def digest(self) -> str:
        """The sha256 digest of its body: to be compared, where a body is too large to be shown."""
        return digest_of(self.body)

    @property
    def codes(self) -> list[str]:
        """The OCI error codes of its body."""
        return [item["code"] for item in json.loads(self.body)["errors"]]

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and the one OCI code: what a table of refusals lists."""
        (code,) = self.codes
        return self.status, code


class Client:
    """One connection, open within `async with`."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self._tls = tls
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self._tls
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def send(self, data: bytes | memoryview) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    def finish(self) -> None:
        """Half-close: nothing more will come from here (FIN)."""
        self._writer.write_eof()

    def close(self) -> None:
        """Close with FIN, without reading."""
        self._writer.close()

    def reset(self) -> None:
        """Cut with RST."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def answer(self, method: str = "GET", limit: float = _LIMIT) -> Answer:
        """The next final response; `method`: of its request (HEAD has no body)."""
        async with asyncio.timeout(limit):
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                line, *fields = head.decode("latin-1").split("\r\n")
                status = int(line.split(" ")[1])
                if status != 100:
                    break
            pairs = (field.partition(":") for field in fields if field)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            length = int(headers.get("content-length", "0"))
            has_body = method != "HEAD" and status not in (204, 304)
            body = await self._reader.readexactly(length) if has_body else b""
            return Answer(status, headers, body)

    async def continued(self) -> None:
        """Wait for `100 Continue`."""
        async with asyncio.timeout(_LIMIT):
            assert await self._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

    async def at_end(self, limit: float = _LIMIT) -> bool:
        """Whether the server has closed, with nothing before it."""
        async with asyncio.timeout(limit):
            try:
                return await self._reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | Sequence[bytes] | None = None,
        *headers: str,
        limit: float = _LIMIT,
    ) -> Answer:
        """Send a request, its body with Content-Length, or chunked where it is a sequence."""
        await self.send(head(method, target, body, *headers))
        try:
            if isinstance(body, bytes):
                await self.send(body)
            elif body is not None:
                for chunk in body:
                    await self.send(encode_chunk(chunk))
                await self.send(b"0\r\n\r\n")
        except ConnectionError:
            pass  # an early answer: it may still be there to be read
        return await self.answer(method, limit)


def head(method: str, target: str, body: bytes | Sequence[bytes] | None, *headers: str) -> bytes:
    """The head of a request with that body (None: without any word about one)."""
    lines = [f"{method} {target} HTTP/1.1", "Host: epoch.test", *headers]
    if isinstance(body, bytes):
        lines.append(f"Content-Length: {len(body)}")
    elif body is not None:
        lines.append("Transfer-Encoding: chunked")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def encode_chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def pieces(data: bytes, size: int) -> list[bytes]:
    """`data` in chunks of `size` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]


async def request(
    port: int,
    method: str,
    target: str,
    body: bytes | Sequence[bytes] | None = None,
    *headers: str,
    limit: float = _LIMIT,
) -> Answer:
    """One request on a connection of its own."""
    async with Client(port) as client:
        return await client.request(method, target, body, *headers, limit=limit)


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """`algorithm:hex` of `data`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


async def put_blob(
    port: int,
    data: bytes,
    digest: str | None = None,
    *,
    body: Sequence[bytes] | None = None,
    name: str = "a/b",
    limit: float = _LIMIT,
) -> Answer:
    """Push `data` with one PUT to its digest, or to another one; chunked where `body` is given."""
    target = f"/v2/{name}/blobs/{digest or digest_of(data)}"
    return await request(port, "PUT", target, data if body is None else body, limit=limit)


async def get_blob(port: int, digest: str, *headers: str, name: str = "a/b") -> Answer:
    """GET a blob."""
    return await request(port, "GET", f"/v2/{name}/blobs/{digest}", None, *headers)


async def has_blob(port: int, digest: str, name: str = "a/b") -> bool:
    """Whether HEAD finds the blob."""
    answer = await request(port, "HEAD", f"/v2/{name}/blobs/{digest}")
    assert answer.status in (200, 404)
    return answer.status == 200
