"""A proxy before an S3 server that fails as it is told, at the n-th call of a kind.

Requests pass unchanged, so the signature, which covers the Host field, stays valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

from epoch.config import S3Settings

Kind = Literal[
    "any", "head", "get", "put", "create", "part", "complete", "abort", "parts", "uploads", "list",
    "delete", "other",
]  # fmt: skip

What = Literal["reset", "reset-body", "lost", "cut", "stall", "500", "503", "429", "slow-down"]
"""`reset`: RST after the head. `reset-body`: RST amid the body. `lost`: the server does what it is
asked, and its answer is lost. `cut`: its answer is cut with RST after `Fault.after` bytes, head
included. `stall`: nothing is read nor answered. The rest: such an answer."""

_ANSWERS: Final = {
    "500": (500, "InternalError"),
    "503": (503, "ServiceUnavailable"),
    "429": (429, "TooManyRequests"),
    "slow-down": (503, "SlowDown"),
}
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PIECE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the `nth` call (from 1) of a kind, and at the `times - 1` next ones."""

    what: What
    kind: Kind = "any"
    nth: int = 1
    times: int = 1_000_000
    after: int = 0


def kind_of(method: str, target: str) -> Kind:
    """Which call of the S3 API a request line is."""
    path, _, query = target.partition("?")
    keys = {pair.partition("=")[0] for pair in query.split("&")}
    upload, named = "uploadId" in keys, path.count("/") > 1 and not path.endswith("/")
    match method:
        case "HEAD":
            return "head"
        case "PUT":
            return "part" if upload else "put"
        case "POST" if named:
            return "create" if "uploads" in keys else "complete"
        case "DELETE":
            return "abort" if upload else "delete"
        case "GET" if upload:
            return "parts"
        case "GET" if "uploads" in keys:
            return "uploads"
        case "GET":
            return "get" if named else "list"
    return "other"


class Proxy:
    """The proxy; see `proxied`."""

    def __init__(self, target: S3Settings) -> None:
        host, _, port = target.endpoint.rpartition(":")
        self._upstream = (host, int(port))
        self.faults: list[Fault] = []
        self.calls: Counter[Kind] = Counter()
        self.rate = 0.0
        """Bytes per second that one connection's requests pass at; 0: no limit."""
        self.reached = asyncio.Event()
        """Set when a fault has struck."""
        self._tasks: set[asyncio.Task[None]] = set()

    def _fault(self, kind: Kind) -> Fault | None:
        self.calls[kind] += 1
        self.calls["any"] += 1
        for fault in self.faults:
            if fault.kind not in (kind, "any"):
                continue
            if fault.nth <= self.calls[fault.kind] < fault.nth + fault.times:
                self.reached.set()
                return fault
        return None

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client has connected."""
        # Not by asyncio's own task: its callback cannot bear that task's cancellation.
        self._start(self._serve(reader, writer))

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        pump: asyncio.Task[None] | None = None
        answer = _Answer()
        try:
            from_upstream, upstream = await asyncio.open_connection(*self._upstream)
            pump = self._start(_pump(from_upstream, writer, answer))
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                length = int(found[1]) if (found := _LENGTH.search(head)) else 0
                fault = self._fault(kind_of(method, target))
                if fault is not None and fault.what not in ("lost", "cut"):
                    await _strike(fault.what, reader, writer, length)
                    continue
                if fault is not None:
                    answer.left = fault.after
                upstream.write(head)
                await self._forward(reader, upstream, length)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if pump is not None:
                pump.cancel()
            for each in (upstream, writer):
                if each is not None:
                    each.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, length: int
    ) -> None:
        while length:
            data = await reader.read(min(length, _PIECE))
            if not data:
                raise ConnectionResetError
            length -= len(data)
            upstream.write(data)
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
        await upstream.drain()

    async def close(self) -> None:
        """End all connections."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        await asyncio.sleep(0)


@dataclass
class _Answer:
    """What comes back on one connection."""

    left: int | None = None
    """Bytes of it that still pass; None: all."""


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: _Answer
) -> None:
    with contextlib.suppress(ConnectionError):
        while answer.left != 0 and (data := await reader.read(_PIECE)):
            if answer.left is not None:
                data = data[: answer.left]
                answer.left -= len(data)
            writer.write(data)
            await writer.drain()
        if writer.transport.get_write_buffer_size():
            writer.transport.set_write_buffer_limits(high=0)
            await writer.drain()
        _reset(writer)


async def _strike(
    what: What, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int
) -> None:
    if what == "stall":
        await asyncio.Event().wait()
    if what.startswith("reset"):
        if what == "reset-body" and length:
            await reader.readexactly(length // 2)
        _reset(writer)
        raise ConnectionResetError
    while length:
        length -= len(await reader.read(min(length, _PIECE)))
    status, code = _ANSWERS[what]
    body = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
    writer.write(
        b"HTTP/1.1 %d Fault\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
        % (status, len(body))
        + body
    )
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def proxied(target: S3Settings, *faults: Fault) -> AsyncIterator[tuple[Proxy, S3Settings]]:
    """A proxy before `target`, and the settings to reach it by."""
    proxy = Proxy(target)
    proxy.faults = list(faults)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, limit=1024 * 1024)
    port = server.sockets[0].getsockname()[1]
    try:
        yield proxy, replace(target, endpoint=f"127.0.0.1:{port}")
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
