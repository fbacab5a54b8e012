"""A blob of 10 GiB through a real bucket in the memory of a small one."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from typing import Final

import pytest

from epoch.config import GIB, MIB, S3Settings
from tests.tools.server import Server

SIZE: Final = 10 * GIB
BLOCK: Final = random.Random(10).randbytes(MIB)
BUDGET: Final = 256 * MIB


def _connect(port: int, head: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=300)
    client.sendall(f"{head} HTTP/1.1\r\nHost: epoch.test\r\n".encode())
    return client


def _head_of(client: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    return head


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_gibibytes_in_flat_memory(s3_settings: S3Settings) -> None:
    total = hashlib.sha256()
    for _ in range(SIZE // MIB):
        total.update(BLOCK)
    target = f"/v2/a/b/blobs/sha256:{total.hexdigest()}"
    server = Server(s3_settings, {"EPOCH_BUFFER_BUDGET": str(BUDGET)})
    try:
        idle = server.memory()
        started = time.monotonic()
        with _connect(server.port, f"PUT {target}") as client:
            client.sendall(b"Content-Length: %d\r\n\r\n" % SIZE)
            for _ in range(SIZE // MIB):
                client.sendall(BLOCK)
            sent = time.monotonic() - started
            assert _head_of(client).startswith(b"HTTP/1.1 201 ")
        seconds = time.monotonic() - started
        peak = server.peak_memory()
        print(
            f"\n10 GiB in {seconds:.1f} s ({SIZE / seconds / 1e6:.0f} MB/s), answered "
            f"{seconds - sent:.1f} s after the last byte; resident: idle {idle / MIB:.0f} MiB, "
            f"peak {peak / MIB:.0f} MiB"
        )
        assert peak <= idle + BUDGET + 16 * MIB

        pulled, left, buffer = hashlib.sha256(), SIZE, bytearray(MIB)
        with _connect(server.port, f"GET {target}") as client:
            client.sendall(b"\r\n")
            assert _head_of(client).startswith(b"HTTP/1.1 200 ")
            while left and (count := client.recv_into(buffer)):
                pulled.update(memoryview(buffer)[:count])
                left -= count
        assert left == 0
        assert pulled.digest() == total.digest()
        print(f"peak after the pull: {server.peak_memory() / MIB:.0f} MiB")
        assert server.peak_memory() <= idle + BUDGET + 16 * MIB
        with _connect(server.port, f"DELETE {target}") as client:
            client.sendall(b"\r\n")
            assert _head_of(client).startswith(b"HTTP/1.1 202 ")
        server.stop()
    finally:
        server.kill()
