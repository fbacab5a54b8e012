"""A real listener on loopback, with small handlers that do one thing each."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from epoch._fastio import PartBuffer, Pool, Sha256, live_views
from epoch.errors import Code, RegistryError
from epoch.http.head import Limits
from epoch.http.listener import Service
from epoch.http.message import Flow, Handler, Request, Response
from epoch.http.shared import Timeouts
from epoch.http.tls import Tls
from epoch.metrics import metrics
from tests.tools.client import Client
from tests.tools.running import eventually

if TYPE_CHECKING:
    from typing_extensions import Buffer

PATIENT: Final = Timeouts(head=60.0, idle=60.0, body_idle=60.0, min_rate=0.0)
LIMITS: Final = Limits(head=32768, target=8192, fields=100)
MAX_BODY: Final = 1 << 40
SECONDS: Final = 20.0
"""That any test may take."""
BLOCK: Final = bytes(range(256)) * 256
"""64 KiB of which streams are made."""


class PartSink:
    """Takes a body into part buffers, hashes it, and gives each buffer back when it is full."""

    SIZE: Final = 65536

    def __init__(self, flow: Flow, pool: Pool, window: int) -> None:
        self.flow = flow
        self.digest = Sha256()
        self.idles = 0
        self._pool = pool
        self._window = window
        self._part: PartBuffer | None = None

    def get_buffer(self, limit: int) -> Buffer:
        if self._part is None:
            self._part = self._pool.lend(self.SIZE, self.SIZE, self._window)
            assert self._part is not None
        self._part.window = min(self._window, limit)
        return self._part

    def received(self, count: int) -> None:
        assert self._part is not None
        self._part.advance_hashed(count, self.digest)
        if not self._part.room:
            self.close()

    def idle(self, seconds: float) -> None:
        self.idles += 1

    def close(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.release()


class Blocks:
    """A `BodyStream` of `length` bytes, from a file where there is one."""

    def __init__(self, length: int, path: Path | None = None, offset: int = 0) -> None:
        self.length = length
        self.offset = offset
        self.promised = length
        self.closed = 0
        self.sent = 0
        self.failure: Exception | None = None
        self._file = os.open(path, os.O_RDONLY) if path else None

    def fileno(self) -> int | None:
        return self._file

    def take_socket(self) -> None:
        return None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.sent < self.promised:
            chunk = BLOCK[: self.promised - self.sent]
            self.sent += len(chunk)
            yield chunk
        if self.failure:
            raise self.failure

    async def resume(self, sent: int, error: Exception) -> None:
        raise error

    async def aclose(self) -> None:
        self.closed += 1
        if self._file is not None:
            os.close(self._file)


def content(length: int) -> bytes:
    """What `Blocks` sends."""
    return (BLOCK * (length // len(BLOCK) + 1))[:length]


@dataclass
class Server:
    """A listener, and all that can be seen of it."""

    service: Service
    port: int
    window: int = 16384
    pool: Pool = field(default_factory=lambda: Pool(1 << 30))
    lines: list[tuple[str, int, int, int]] = field(default_factory=list)
    """Access lines: path (empty: no request), status, bytes in and out."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    streams: list[Blocks] = field(default_factory=list)
    sinks: list[PartSink] = field(default_factory=list)
    handlers: dict[str, Handler] = field(default_factory=dict)

    async def handle(self, request: Request) -> Response:
        """The first word of the path names the handler."""
        name, *arguments = request.path.strip("/").split("/")
        own = self.handlers.get(name)
        if own is not None:
            return await own(request)
        method: Callable[..., Awaitable[Response]] | None = getattr(self, f"_{name}", None)
        if method is None:
            raise RegistryError(Code.NAME_UNKNOWN)
        return await method(request, *arguments)

    async def _hello(self, request: Request, name: str = "") -> Response:
        return Response(200, body=b"hello " + name.encode())

    async def _echo(self, request: Request) -> Response:
        return Response(200, body=await request.body.read(1 << 20))

    async def _sink(self, request: Request) -> Response:
        def make(flow: Flow) -> PartSink:
            self.sinks.append(PartSink(flow, self.pool, self.window))
            return self.sinks[-1]

        try:
            count = await request.body.into(make)
        finally:
            sink = self.sinks[-1]
            sink.close()
        return Response(200, body=f"{count} {sink.digest.hexdigest()}".encode())

    async def _ignore(self, request: Request) -> Response:
        return Response(200, body=b"ignored")

    async def _refuse(self, request: Request, status: str, code: str) -> Response:
        raise RegistryError(Code[code], status=int(status))

    async def _status(self, request: Request, status: str) -> Response:
        return Response(int(status), body=b"x" * 10)

    async def _wait(self, request: Request) -> Response:
        await self.gate.wait()
        return Response(200, body=b"waited")

    async def _stream(self, request: Request, length: str) -> Response:
        self.streams.append(Blocks(int(length)))
        return Response(200, body=self.streams[-1])

    def client(self) -> Client:
        """A connection to it."""
        return Client(self.port)

    async def until_quiet(self) -> None:
        """Wait until no connection and no request is left."""
        await eventually(lambda: not self.service.connections and not self.service.tasks, 10)


def digest_line(data: bytes) -> bytes:
    """What the handler `sink` answers."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()


@asynccontextmanager
async def serving(
    *,
    timeouts: Timeouts = PATIENT,
    max_body: int = MAX_BODY,
    shut_down: bool = False,
    tls: Tls | None = None,
    **handlers: Handler,
) -> AsyncIterator[Server]:
    """Serve the handlers above and `handlers`, and see at the end that nothing is left: no
    connection, task, buffer or view. `shut_down`: the block itself closes the service."""
    tasks, connections, views = asyncio.all_tasks(), metrics.connections, live_views()
    server: Server

    async def handle(request: Request) -> Response:
        return await server.handle(request)

    def note(
        request: Request | None, peer: str, status: int, received: int, sent: int, seconds: float
    ) -> None:
        assert peer.startswith("127.0.0.1:")
        assert 0 <= seconds < 120
        server.lines.append((request.path if request else "", status, received, sent))

    service = Service(handle, limits=LIMITS, timeouts=timeouts, max_body=max_body, access_log=note)
    _, port = await service.listen("127.0.0.1", 0, tls)
    server = Server(service, port)
    server.handlers = handlers
    try:
        async with asyncio.timeout(SECONDS):
            yield server
            if not shut_down:
                await server.until_quiet()
    finally:
        await service.close(0)
    assert service.connections == set()
    assert service.tasks == set()
    assert (server.pool.lent, live_views() - views) == (0, 0)
    assert metrics.connections == connections
    assert all(stream.closed == 1 for stream in server.streams)
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() - tasks - {asyncio.current_task()} == set()


def quick(**changes: float) -> Timeouts:
    """Patient deadlines, but for some."""
    return replace(PATIENT, **changes)


class Raw:
    """A bare socket, whose buffers and reads are under the test's control."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setblocking(False)
        self._port = port
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        try:
            await self._loop.sock_connect(self.sock, ("127.0.0.1", self._port))
        except OSError:
            self.sock.close()
            raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    async def send(self, data: bytes) -> None:
        """All of it."""
        async with asyncio.timeout(10):
            await self._loop.sock_sendall(self.sock, data)

    async def send_what_fits(self, most: int, patience: float = 0.2) -> int:
        """Send up to `most` bytes until nothing is taken for `patience` seconds; how many were."""
        sent, block = 0, bytes(1 << 18)
        while sent < most:
            try:
                sent += self.sock.send(block[: most - sent])
            except BlockingIOError:
                writable = asyncio.Event()
                self._loop.add_writer(self.sock, writable.set)
                try:
                    async with asyncio.timeout(patience):
                        await writable.wait()
                except TimeoutError:
                    break
                finally:
                    self._loop.remove_writer(self.sock)
        return sent

    async def receive(self, most: int = 65536) -> bytes:
        """The next bytes; empty at the end."""
        async with asyncio.timeout(10):
            return await self._loop.sock_recv(self.sock, most)

    async def receive_all(self) -> bytes:
        """Everything until the server closes; a reset ends it too."""
        found = []
        try:
            while data := await self.receive():
                found.append(data)
        except ConnectionResetError:
            pass
        return b"".join(found)

    def finish(self) -> None:
        """Half-close."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Cut with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


async def exchange(port: int, *pieces: bytes, finish: bool = False) -> bytes:
    """Send pieces, each in a segment of its own, and return all that comes until the end."""
    async with Raw(port) as raw:
        try:
            for piece in pieces:
                await raw.send(piece)
                await asyncio.sleep(0)
            if finish:
                raw.finish()
        except ConnectionError:
            pass  # closed on us: what it said may still be there
        return await raw.receive_all()


def statuses(wire: bytes) -> list[int]:
    """The statuses of consecutive responses, with Content-Length, to anything but HEAD."""
    found = []
    while wire:
        head, separator, wire = wire.partition(b"\r\n\r\n")
        assert separator, head
        found.append(int(head.split(b" ")[1]))
        lengths = [
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        ]
        length = int(lengths[0].partition(b":")[2]) if lengths else 0
        assert len(wire) >= length, (head, wire)
        wire = wire[length:]
    return found
