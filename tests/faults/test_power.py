"""Killed after the rename and before the fsync, then asked again: the second 201 is durable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from epoch.config import MIB
from tests.tools.client import digest_of, has_blob, put_blob
from tests.tools.server import Server

DATA = bytes(range(256)) * 100


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if (
        found is None
        or subprocess.run([found, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("needs strace, and the right to trace")
    return found


@pytest.fixture
def start(strace: str, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers over `tmp_path/store` whose fsyncs are traced, with their paths."""
    servers: list[Server] = []

    def traced(*options: str) -> Server:
        before = [strace, "-D", "-f", "-q", "-y", "-e", "trace=fsync", *options, "--"]
        servers.append(Server(tmp_path / "store", {"EPOCH_PART_SIZE": "5MiB"}, before=before))
        return servers[-1]

    yield traced
    for server in servers:
        server.kill()


def synced(log: Path, count: int = 0) -> list[str]:
    """The paths of all fsyncs, of at least so many: strace may be late."""
    deadline = time.monotonic() + 10
    while True:
        found = re.findall(r"fsync\(\d+<(.*)>", log.read_text())
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize("size", [1000, 6 * MIB], ids=["small", "in-parts"])
async def test_killed_between_rename_and_fsync(
    start: Callable[..., Server], tmp_path: Path, size: int
) -> None:
    data, log = tmp_path / "store", tmp_path / "log"
    folder = str(data / "blobs" / "sha256")
    blob = (DATA * (size // len(DATA) + 1))[:size]
    server = start("-P", folder, "-e", "inject=fsync:signal=KILL")
    with pytest.raises((ConnectionError, EOFError)):
        await put_blob(server.port, blob)
    assert server.wait() != 0
    assert os.stat(f"{folder}/{digest_of(blob)[7:]}").st_size == size

    server = start("-o", str(log))
    assert await has_blob(server.port, digest_of(blob))
    before = len(synced(log))
    assert (await put_blob(server.port, blob)).status == 201
    assert synced(log, before + 3)[before:] == [folder, str(data / "blobs"), str(data)]
