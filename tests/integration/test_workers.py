"""`epoch serve --workers N`: one port, one ready line, one exit, whatever happens to a worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from epoch.config import S3Settings
from tests.tools.client import Client, digest_of, head, put_blob, request
from tests.tools.fixtures import StartServer
from tests.tools.running import PART, eventually
from tests.tools.server import Server, environment

WORKERS = 3
_LIMIT = 60.0
"""Seconds; only a machine that is busy with others comes near."""
DATA = os.urandom(PART + 77)


@pytest.fixture
def pool(start_server: StartServer) -> Server:
    return start_server({"EPOCH_WORKERS": str(WORKERS), "EPOCH_SHUTDOWN_GRACE": "10"})


def workers_of(server: Server) -> list[int]:
    """The process ids of the workers that are there."""
    path = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def worker_of(pool: Server, client: Client) -> int:
    """The process at the other end of a connection that was answered: by its socket's inode."""
    local = client._writer.get_extra_info("sockname")[1]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [
        row[9]
        for row in rows
        if (_port(row[1]), _port(row[2])) == (pool.port, local) and row[9] != "0"
    ]
    for pid in workers_of(pool):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if descriptor.readlink() == Path(f"socket:[{inode}]"):
                    return pid
    raise AssertionError("nobody has that connection")


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


async def connect_to_all(pool: Server, stack: contextlib.AsyncExitStack) -> dict[int, Client]:
    """A connection to every worker, by its process id."""
    found: dict[int, Client] = {}
    async with asyncio.timeout(_LIMIT):
        while found.keys() != set(workers_of(pool)):
            client = await stack.enter_async_context(Client(pool.port))
            await client.request("GET", "/v2/")
            found.setdefault(worker_of(pool, client), client)
    return found


async def metric(port: int, name: str) -> float:
    answer = await request(port, "GET", "/metrics")
    found = re.search(rf"^{re.escape(name)} (\S+)$", answer.body.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_all_of_them_serve_and_say_so_once(pool: Server) -> None:
    assert len(workers_of(pool)) == WORKERS
    assert pool.log().count(" info ready ") == 1
    async with contextlib.AsyncExitStack() as stack:
        clients = await connect_to_all(pool, stack)
        digest = digest_of(DATA)
        assert (await put_blob(pool.port, DATA)).status == 201
        for client in clients.values():
            assert (await client.request("GET", f"/v2/a/blobs/{digest}")).body == DATA


async def test_metrics_are_those_of_all(pool: Server) -> None:
    name = 'epoch_requests_total{endpoint="ping",method="GET",status="200"}'
    for count in range(1, 31):
        assert (await request(pool.port, "GET", "/v2/")).status == 200
        if count % 10 == 0:
            assert await metric(pool.port, name) == count
    assert await metric(pool.port, "epoch_buffer_budget_bytes") == 3 * ((64 << 20) // 3)
    assert await metric(pool.port, 'epoch_build_info{version="0.1.0"}') <= 1
    asked = 'epoch_requests_total{endpoint="metrics",method="GET",status="200"}'
    assert await metric(pool.port, asked) == 5
    both = await asyncio.gather(*(metric(pool.port, name) for _ in range(12)))
    assert both == [30.0] * 12


async def test_a_worker_that_is_killed_is_replaced_and_no_other_notices(pool: Server) -> None:
    pings = 'epoch_requests_total{endpoint="ping",method="GET",status="200"}'
    async with contextlib.AsyncExitStack() as stack:
        clients = await connect_to_all(pool, stack)
        counted = await metric(pool.port, pings)
        (victim, cut), (_, other), (_, slow) = clients.items()
        # An upload begun on the victim is gone on with elsewhere.
        begun = await cut.request("POST", "/v2/a/blobs/uploads/", b"")
        sent = await cut.request("PATCH", begun.headers["location"], DATA[:1000])
        assert sent.status == 202
        await slow.send(head("PUT", f"/v2/a/blobs/{digest_of(DATA)}", DATA) + DATA[:5000])
        os.kill(victim, signal.SIGKILL)
        assert await cut.at_end()
        closing = f"{sent.headers['location']}?digest={digest_of(DATA[:2000])}"
        assert (await other.request("PUT", closing, DATA[1000:2000])).status == 201
        await eventually(lambda: len(workers_of(pool)) == WORKERS, _LIMIT)
        assert victim not in workers_of(pool)
        await slow.send(DATA[5000:])
        assert (await slow.answer()).status == 201
    # The counts of the dead are kept.
    assert await metric(pool.port, pings) == counted
    async with contextlib.AsyncExitStack() as stack:
        await connect_to_all(pool, stack)
    assert "a worker died worker=" in pool.log()


async def _load(port: int, results: Counter[str], number: int) -> None:
    """Push until the server goes."""
    for count in range(10_000):
        data = b"%d-%d" % (number, count) * 2000
        try:
            async with Client(port) as client:
                answer = await client.request("PUT", f"/v2/a/blobs/{digest_of(data)}", data)
                results[str(answer.status)] += 1
        except ConnectionRefusedError:
            results["refused"] += 1
            return
        except (ConnectionError, asyncio.IncompleteReadError):
            results["cut"] += 1


async def test_stop_under_load(pool: Server) -> None:
    results: Counter[str] = Counter()
    clients = [asyncio.create_task(_load(pool.port, results, n)) for n in range(6)]
    await eventually(lambda: results["201"] > 30, _LIMIT)
    async with Client(pool.port) as slow:
        await slow.send(head("PUT", f"/v2/a/blobs/{digest_of(DATA)}", DATA) + DATA[:5000])
        await request(pool.port, "GET", "/v2/")
        pool.terminate()
        await asyncio.gather(*clients)
        await slow.send(DATA[5000:])
        assert (await slow.answer()).status == 201
    assert pool.wait() == 0
    assert results.keys() <= {"201", "refused", "cut"}
    # Connections that no worker had accepted when the port was closed.
    assert results["cut"] <= len(clients)
    assert pool.log().rstrip().endswith(" info stopped")
    assert "Traceback" not in pool.log()


def test_workers_go_with_their_parent(pool: Server) -> None:
    workers = workers_of(pool)
    pool.process.kill()
    pool.process.wait()
    deadline = time.monotonic() + _LIMIT
    while any(_lives(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def start(place: S3Settings | Path, port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "epoch", "serve", "--addr", f"127.0.0.1:{port}", "--workers", "2"],
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str], text: str) -> None:
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "ACCESS IS OPEN" not in line]
    assert len(lines) == 1, done.stderr
    assert text in lines[0]


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one_line(start(tmp_path / "data", port), f"port {port} is in use")


def test_a_port_of_other_workers_is_in_use_too(pool: Server, tmp_path: Path) -> None:
    one_line(start(tmp_path / "data", pool.port), f"port {pool.port} is in use")


def test_a_store_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    one_line(start(tmp_path / "file" / "data", 0), str(tmp_path / "file"))
