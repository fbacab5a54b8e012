"""A scripted S3 server, for faults that no real server produces on demand."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from epoch.config import S3Settings


@dataclass
class Call:
    """One request. A script answers it, or leaves the connection in whatever state it likes."""

    number: int
    method: str
    target: str
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def operation(self) -> str:
        """The S3 operation, as far as the scripts tell them apart."""
        query = self.query
        if "partNumber" in query:
            return "UploadPartCopy" if "x-amz-copy-source" in self.headers else "UploadPart"
        if "uploads" in query:
            return "CreateMultipartUpload" if self.method == "POST" else "ListMultipartUploads"
        if "uploadId" in query:
            return {
                "POST": "CompleteMultipartUpload",
                "DELETE": "AbortMultipartUpload",
                "GET": "ListParts",
            }[self.method]
        if "list-type" in query:
            return "ListObjectsV2"
        if self.method == "PUT":
            return "CopyObject" if "x-amz-copy-source" in self.headers else "PutObject"
        objects = {"GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
        return objects.get(self.method, self.method)

    async def body(self, count: int | None = None) -> bytes:
        """Read the body, or `count` bytes of it."""
        length = int(self.headers.get("content-length", "0"))
        left = (length if count is None else count) - len(self.received)
        while left > 0:
            data = await self.reader.read(min(left, 1 << 20))
            if not data:
                raise ConnectionResetError("the client went away")
            self.received += data
            left -= len(data)
        return bytes(self.received)

    async def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer; `headers` have `_` for `-`."""
        named = {"content-length": str(len(body)), "x-amz-request-id": "stub"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        content = b"" if self.method == "HEAD" else body
        self.writer.write(f"HTTP/1.1 {status} Stub\r\n{head}\r\n".encode() + content)
        await self.writer.drain()

    async def error(self, status: int, code: str) -> None:
        await self.answer(status, error_body(code))

    def reset(self) -> None:
        """Cut the connection with RST."""
        self.writer.transport.abort()


def error_body(code: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
        f"<Message>a message</Message></Error>"
    ).encode()


Script = Callable[[Call], Awaitable[None]]


@dataclass
class Stub:
    """A running stub: where it listens, and what has been asked of it."""

    settings: S3Settings
    calls: list[Call]

    def operations(self) -> list[str]:
        return [call.operation for call in self.calls]


@contextlib.asynccontextmanager
async def serve(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Stub]:
    """Run a stub whose every request is handed to `script`, with all that it leaves cleaned up."""
    calls: list[Call] = []
    tasks: set[asyncio.Task[None]] = set()
    failures: list[Exception] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.transport.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            method, target, _ = first.split(" ")
            pairs = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            call = Call(len(calls), method, target, headers, reader, writer)
            calls.append(call)
            await script(call)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await converse(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001 - handed to the test
            failures.append(error)
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, limit=1 << 16)
    port = server.sockets[0].getsockname()[1]
    settings = S3Settings(
        endpoint=f"127.0.0.1:{port}",
        access_key="stub-key",
        secret_key="stub-secret-5f2e",
        bucket="bucket",
        secure=tls is not None,
        prefix="p/",
    )
    try:
        yield Stub(settings, calls)
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    assert not failures, failures
