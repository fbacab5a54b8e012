"""Signals that scripts send to servers: none of them ends one that nobody told to end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from epoch import layout
from epoch.oci.digest import Digest
from tests.tools.client import Client, digest_of, head, request
from tests.tools.fixtures import StartServer
from tests.tools.machine import program
from tests.tools.running import PART, eventually
from tests.tools.server import Server, environment, without_nohup

pytestmark = pytest.mark.parametrize("place", ["directory"], indirect=True)

HARMLESS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
DATA = os.urandom(PART + 77)


def said(number: signal.Signals) -> str:
    """What a process writes when it gets the signal."""
    return "SIGHUP received" if number == signal.SIGHUP else f"signal ignored signal={number.name}"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_blocked(pid: int, number: signal.Signals) -> bool:
    """Whether the process keeps the signal pending (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^SigBlk:\s+(\w+)$", status, re.MULTILINE)
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


async def push_amid(server: Server, disturb: Callable[[], object]) -> None:
    """A push that is under way while `disturb` is called, and succeeds."""
    async with Client(server.port) as client:
        await client.send(head("PUT", f"/v2/a/blobs/{digest_of(DATA)}", DATA) + DATA[:5000])
        await request(server.port, "GET", "/v2/")
        disturb()
        await client.send(DATA[5000:])
        assert (await client.answer()).status == 201


@pytest.mark.parametrize("number", HARMLESS)
async def test_a_server_without_tls_goes_on(server: Server, number: signal.Signals) -> None:
    await push_amid(server, lambda: server.process.send_signal(number))
    await eventually(lambda: said(number) in server.log())
    assert (await request(server.port, "GET", "/v2/")).status == 200


@pytest.mark.parametrize("number", HARMLESS)
@pytest.mark.parametrize("whom", ["parent", "workers", "all"])
async def test_workers_and_their_parent_go_on(
    start_server: StartServer, number: signal.Signals, whom: str
) -> None:
    server = start_server({"EPOCH_WORKERS": "2"})
    workers = children(server.process.pid)

    def disturb() -> None:
        if whom != "parent":
            for pid in workers:
                os.kill(pid, number)
        if whom != "workers":
            server.process.send_signal(number)

    await push_amid(server, disturb)
    await eventually(lambda: said(number) in server.log())
    assert children(server.process.pid) == workers
    assert "a worker died" not in server.log()


SLOWLY = """
from epoch.cli.main import main
from epoch.garbage.pins import TIMES
object.__setattr__(TIMES, "announce", 3.0)
main()
"""
"""A collection stays amid its deletions for so long."""


def start(place: Path, *before: str, command: str = "serve") -> subprocess.Popen[str]:
    """A command of ours, of which not a word is read yet."""
    arguments = {
        "serve": ["-m", "epoch", "serve", "--addr", "127.0.0.1:0"],
        "gc": ["-c", SLOWLY, "gc"],
    }
    with without_nohup():
        return subprocess.Popen(
            [*before, sys.executable, *arguments[command]],
            env=environment(place),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def wait_until(condition: Callable[[], bool]) -> None:
    asyncio.run(eventually(condition))


def test_a_server_that_is_starting_goes_on(place: Path) -> None:
    with start(place) as process:
        try:
            wait_until(lambda: has_blocked(process.pid, signal.SIGHUP))
            for number in HARMLESS:
                process.send_signal(number)
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if " info ready " in line:
                    break
            assert " info ready " in lines[-1]
            process.terminate()
            assert process.wait(20) == 0
            text = "".join(lines) + process.stderr.read()
            assert all(said(number) in text for number in HARMLESS)
        finally:
            process.kill()


async def test_a_worker_that_is_starting_goes_on(start_server: StartServer) -> None:
    server = start_server({"EPOCH_WORKERS": "2"})
    before = set(children(server.process.pid))
    os.kill(min(before), signal.SIGKILL)
    newcomer = 0

    def has_come() -> bool:
        nonlocal newcomer
        newcomer = next(iter(set(children(server.process.pid)) - before), 0)
        return newcomer != 0

    await eventually(has_come)
    for number in HARMLESS:
        os.kill(newcomer, number)
        server.process.send_signal(number)
    await eventually(lambda: not has_blocked(newcomer, signal.SIGHUP))
    assert newcomer in children(server.process.pid)
    assert server.log().count("a worker died") == 1


@pytest.mark.parametrize(
    ("number", "before", "goes_on"),
    [
        (signal.SIGHUP, (), False),
        (signal.SIGHUP, ("nohup",), True),
        (signal.SIGUSR1, (), True),
        (signal.SIGUSR2, (), True),
    ],
)
def test_a_collection_ends_in_order_or_goes_on(
    place: Path, number: signal.Signals, before: tuple[str, ...], goes_on: bool
) -> None:
    content = b"old"
    blob = place / layout.blob(Digest.of(content))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    os.utime(blob, (0, 0))
    with start(place, *map(program, before), command="gc") as process:
        try:
            # Amid its deletions.
            wait_until(lambda: bool([*(place / "_gc/sweeps").glob("*")]))
            process.send_signal(number)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == (0 if goes_on else 1), error
    # No announcement is left that would hold up pushes.
    assert [*(place / "_gc/sweeps").glob("*")] == []
    if goes_on:
        assert not blob.exists()


def test_the_pattern_in_the_documents_finds_the_server(place: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/auth.md").read_text()
    found = re.search(r"^pkill -HUP -f '([^']+)'", text, re.MULTILINE)
    assert found
    script = Path(sys.executable).with_name("epoch")
    for workers in ("1", "2"):
        process = subprocess.Popen(
            [script, "serve", "--addr", "127.0.0.1:0"],
            env=environment(place, {"EPOCH_WORKERS": workers}),
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                assert process.stderr is not None
                assert any(" info ready " in line for line in process.stderr)
                lines = {
                    pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    for pid in (process.pid, *children(process.pid))
                }
                hit = {pid for pid, line in lines.items() if re.search(found[1], line)}
                assert hit == {process.pid}
            finally:
                process.terminate()
                process.wait(20)
