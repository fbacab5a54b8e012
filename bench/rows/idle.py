"""Connections that do nothing: memory of each, and part buffers that silent pushes hold."""

import resource
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from bench.harness.blobs import GIB
from bench.harness.process import Process
from bench.harness.row import Row
from bench.harness.servers import Tuning, start_discard, start_epoch

_CONNECTIONS: Final = 10_000
_FIRST: Final = 200
"""Connections after which everything that is allocated once has been."""
_PUSHES: Final = 1_000
_SPARE: Final = 300
"""Descriptors that a server and this process need for other things."""

_GET: Final = b"GET /v2/ HTTP/1.1\r\nHost: bench\r\n\r\n"
_PUT: Final = (
    b"PUT /v2/bench/blobs/sha256:%064d HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n"
    b"Expect: 100-continue\r\n\r\n"
)


def rows(runs: int) -> Iterator[Row]:
    """Keep-alive connections between requests; then pushes of which only the head has come."""
    _allow_descriptors(_CONNECTIONS + _FIRST + _SPARE)
    with ExitStack() as stack:
        store = stack.enter_context(start_discard())
        each, lent = [], []
        for _ in range(min(runs, 2)):
            with start_epoch(store.port, Tuning()) as server:
                each.append(_idle(server) / 1000)
            with start_epoch(store.port, Tuning()) as server:
                lent.append(_silent(server) / 1000)
    yield Row(9, f"each of {_CONNECTIONS} idle connections", "kB", 7.0, each)
    yield Row(9, f"part buffers of {_PUSHES} PUTs without a byte of body", "kB", 0.0, lent)


def _idle(server: Process) -> float:
    """Resident bytes for each connection that has had one answer."""
    with ExitStack() as stack:
        _converse(stack, server.port, _FIRST, _GET, b"HTTP/1.1 200 ")
        before = server.memory()
        _converse(stack, server.port, _CONNECTIONS, _GET, b"HTTP/1.1 200 ")
        return (server.memory() - before) / _CONNECTIONS


def _silent(server: Process) -> int:
    """Bytes of part buffers that are lent while the pushes wait for their bodies."""
    with ExitStack() as stack:
        # The server says 100 when it waits for the body, and not before.
        head = _PUT % (0, GIB)
        _converse(stack, server.port, _PUSHES, head, b"HTTP/1.1 100 ")
        return _metric(server.port, "epoch_buffer_lent_bytes")


def _converse(stack: ExitStack, port: int, count: int, said: bytes, expected: bytes) -> None:
    """Open so many connections until the stack's end, on each say that, and await the answer."""
    for _ in range(count):
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        client.sendall(said)
        answer = client.recv(4096)
        if not answer.startswith(expected):
            raise RuntimeError(f"the server said {answer!r}")


def _metric(port: int, name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return int(float(line.split()[1]))
    raise RuntimeError(f"no metric {name}")


def _allow_descriptors(count: int) -> None:
    """Raise this process's limit, which the servers inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise RuntimeError(f"{count} open files are needed, {hard} allowed: see ulimit -Hn")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
