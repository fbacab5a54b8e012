"""Memory is bounded by a stated figure whatever clients do, and comes back when they are gone.

The figures are those of docs/performance.md, "Memory".
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import resource
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from epoch.config import MIB, S3Settings
from epoch.http.allocator import Allocator
from tests.tools.authority import Authority
from tests.tools.client import Client, digest_of
from tests.tools.server import Server

pytestmark = pytest.mark.alone

KIB = 1024
PART_BUFFERS = 32 * MIB
BODIES = 64 * MIB
PLAIN, SECURE, SECURE_PUSH = 48 * KIB, 320 * KIB, 800 * KIB
"""Bytes for each connection that does its worst."""

BACK = 16 * MIB
"""What may stay when all are gone."""

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [],
        "annotations": {"padding": "x" * (4 * MIB - 500)},
    }
).encode()
BLOB = random.Random(16).randbytes(16 * MIB)
TARGET = f"/v2/a/b/blobs/{digest_of(BLOB)}"


def _get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


PUSH = (
    f"PUT /v2/a/b/manifests/x HTTP/1.1\r\nHost: a\r\nContent-Type: {INDEX}\r\n"
    f"Content-Length: {len(MANIFEST)}\r\n\r\n"
).encode() + MANIFEST[: 2 * MIB]

WORST = {
    "manifest": _get("/v2/a/b/manifests/big"),
    "push": PUSH,
    "blob": _get(TARGET),
    "idle": b"",
    "half-head": _get("/v2/")[:-4] + b"\r\nX: " + b"y" * 30_000,
    "pipeline": _get("/v2/") * 100,
}


@dataclass
class Target:
    """A server, and how to speak to it."""

    server: Server
    tls: ssl.SSLContext | None
    authority: list[str]
    """The file of who signs its certificate, if it has one."""
    base: int
    """Bytes that it takes when nobody asks for anything."""


@pytest.fixture(autouse=True, scope="module")
def _descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.asynccontextmanager
async def serving(
    place: S3Settings | Path, authority: Authority | None = None
) -> AsyncIterator[Target]:
    """A server that holds `MANIFEST` and `BLOB`."""
    extra, tls = {"EPOCH_BUFFER_BUDGET": "32MiB"}, None
    if authority is not None:
        cert, key = authority.issue("server")
        extra |= {"EPOCH_TLS_CERT": str(cert), "EPOCH_TLS_KEY": str(key)}
        tls = ssl.create_default_context(cafile=str(authority.path))
    server = await asyncio.to_thread(Server, place, extra)
    try:
        async with Client(server.port, tls) as client:
            await client.request("GET", "/v2/")
            base = server.memory()
            assert (await client.request("PUT", TARGET, BLOB)).status == 201
            kind = f"Content-Type: {INDEX}"
            answer = await client.request("PUT", "/v2/a/b/manifests/big", MANIFEST, kind)
            assert answer.status == 201
        signs = [] if authority is None else [str(authority.path)]
        yield Target(server, tls, signs, base)
        await asyncio.to_thread(server.stop)
    finally:
        server.kill()


def _bad(target: Target, wire: bytes, keep: contextlib.ExitStack) -> None:
    """One client that sends `wire` as far as it is taken, and reads nothing."""
    sock = socket.socket()
    keep.callback(sock.close)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", target.server.port))
    if target.tls is not None:
        sock = target.tls.wrap_socket(sock, server_hostname="127.0.0.1")
        keep.callback(sock.close)
    sock.settimeout(0.2)
    with contextlib.suppress(TimeoutError, ConnectionError, ssl.SSLError):
        sock.sendall(wire)


PROBE = """
import http.client, ssl, sys, time
port, target, ca = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
if ca:
    context = ssl.create_default_context(cafile=ca[0])
    client = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
else:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
while True:
    began = time.monotonic()
    client.request("HEAD", target)
    with client.getresponse() as response:
        assert response.status == 200, response.status
    print(began, time.monotonic() - began, flush=True)
    time.sleep(0.05)
"""
"""Asks all the time how long a HEAD takes; in a process of its own, which nothing holds up."""


@contextlib.asynccontextmanager
async def _probing(target: Target) -> AsyncIterator[list[float]]:
    """The seconds of each HEAD so far."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROBE,
        str(target.server.port),
        TARGET,
        *target.authority,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    output = process.stdout
    found: list[float] = []

    async def ask() -> float:
        began, seconds = map(float, (await output.readline()).split())
        found.append(seconds)
        return began

    try:
        await ask()
        yield found
        now = time.monotonic()  # the same clock as the probe's
        async with asyncio.timeout(20):
            while await ask() < now:
                pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _suffer(target: Target, kind: str, count: int, each: int, patience: float = 1.0) -> None:
    """`count` clients of a kind: memory keeps to the figure, others are served, all comes back."""
    most = target.base + PART_BUFFERS + BODIES + count * each
    loop = asyncio.get_running_loop()
    async with _probing(target) as seconds:
        with contextlib.ExitStack() as keep:
            with ThreadPoolExecutor(50) as clients:
                joining = [
                    loop.run_in_executor(clients, _bad, target, WORST[kind], keep)
                    for _ in range(count)
                ]
                await asyncio.gather(*joining)
            seen = 0
            for _ in range(15):
                await asyncio.sleep(0.1)
                seen = max(seen, target.server.memory())
    print(
        f"{kind}: {count} clients, {(seen - target.base) / MIB:.0f} MiB above idle, at most "
        f"{(most - target.base) / MIB:.0f}; HEAD {max(seconds):.2f} s at worst"
    )
    assert seen <= most
    assert target.server.peak_memory() <= most
    assert max(seconds) < patience, sorted(seconds)[-5:]
    back = target.base + PART_BUFFERS + BACK
    async with asyncio.timeout(30):
        while target.server.memory() > back:  # noqa: ASYNC110 - looks at another process
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("kind", WORST)
async def test_2000_bad_clients(kind: str, tmp_path: Path) -> None:
    async with serving(tmp_path / "store") as target:
        await _suffer(target, kind, 2000, PLAIN)


@pytest.mark.parametrize("kind", ["manifest", "push", "blob", "idle"])
async def test_300_bad_clients_over_tls(kind: str, tmp_path: Path) -> None:
    async with serving(tmp_path / "store", Authority(tmp_path, "authority")) as target:
        await _suffer(target, kind, 300, SECURE_PUSH if kind == "push" else SECURE)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_300_bad_clients_of_a_bucket(
    tls: bool, s3_settings: S3Settings, tmp_path: Path
) -> None:
    """A HEAD asks the store, too, which sends 300 blobs meanwhile."""
    authority = Authority(tmp_path, "authority") if tls else None
    async with serving(s3_settings, authority) as target:
        await _suffer(target, "blob", 300, SECURE if tls else PLAIN, patience=3.0)


def test_memory_is_given_back_when_half_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not once more before something has come and gone again."""
    collected: list[None] = []
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "collect", lambda: collected.append(None))
    giving = Allocator()
    for connections, now, times in [
        (100, 10.0, 0),
        (60, 11.0, 0),
        (50, 12.0, 1),
        (50, 30.0, 1),
        (0, 31.0, 2),
        (0, 60.0, 2),
        (15, 61.0, 2),
        (0, 90.0, 2),
        (100, 100.0, 2),
        (10, 106.0, 3),
        (0, 107.0, 3),
        (0, 112.0, 4),
        (0, 120.0, 4),
    ]:
        giving.tick(connections, now)
        assert len(collected) == times
