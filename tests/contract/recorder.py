"""A proxy that notes the head of every request on its way to a real S3 server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Head:
    """One request, as it went over the wire. Header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclass
class Recorder:
    """A running proxy: `endpoint` is its `host:port`, `heads` what has gone through it."""

    endpoint: str
    heads: list[Head]


async def _requests(
    reader: asyncio.StreamReader, server: asyncio.StreamWriter, heads: list[Head]
) -> None:
    while True:
        raw = await reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode().split("\r\n")
        method, target, _ = first.split(" ")
        pairs = [line.partition(":") for line in lines if line]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        assert len(headers) == len(pairs), "a header is repeated"
        heads.append(Head(method, target, headers))
        server.write(raw)
        left = int(headers.get("content-length", "0"))
        while left:
            data = await reader.read(min(left, 1 << 18))
            if not data:
                return
            server.write(data)
            await server.drain()
            left -= len(data)


async def _answers(reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 18):
        client.write(data)
        await client.drain()


@contextlib.asynccontextmanager
async def record(endpoint: str) -> AsyncIterator[Recorder]:
    """Run the proxy in front of `endpoint` (`host:port`, plain HTTP)."""
    host, _, port = endpoint.partition(":")
    heads: list[Head] = []
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        onward, server = await asyncio.open_connection(host, int(port))
        back = asyncio.create_task(_answers(onward, writer))
        tasks.add(back)
        try:
            await _requests(reader, server, heads)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            server.transport.abort()
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 16)
    try:
        yield Recorder(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heads)
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
