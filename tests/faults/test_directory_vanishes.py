"""`epoch serve` over a directory that goes away: no 404, and no 201 into another directory."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools.client import Answer, digest_of, get_blob, put_blob, request
from tests.tools.running import PART, eventually
from tests.tools.server import Server
from tests.tools.sessions import Session

DATA = b"a layer"
DIGEST = digest_of(DATA)
LARGE = bytes(PART + 1)
UNAVAILABLE = (503, "UNAVAILABLE")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where the server stores."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    return folder


@pytest.fixture
def mount(tmp_path: Path, data: Path) -> Iterator[Callable[[], None]]:
    """Mounts a tmpfs at `data`, each time the same one, where we may; it is mounted once."""
    disk = tmp_path / "disk"
    disk.mkdir()
    tmpfs = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(tmpfs, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")

    def bind() -> None:
        subprocess.run(["mount", "--bind", disk, data], check=True)

    try:
        bind()
        yield bind
    finally:
        subprocess.run(["umount", "--lazy", data], check=False, capture_output=True)
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def serve(data: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(**extra: str) -> Server:
        servers.append(Server(data, {"EPOCH_PART_SIZE": "5MiB"} | extra))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


async def refuses(server: Server, session: Session) -> None:
    """All that reads, all that stores, all that removes."""
    port = server.port
    name = f"/v2/a/b/blobs/{DIGEST}"
    unknown = f"/v2/a/b/blobs/{digest_of(b'never pushed')}"
    asked: list[Answer] = [
        await get_blob(port, DIGEST),
        await request(port, "GET", unknown),
        await request(port, "GET", "/v2/a/b/manifests/v1"),
        await request(port, "GET", "/v2/a/b/tags/list"),
        await request(port, "GET", "/v2/_catalog"),
        await put_blob(port, DATA),
        await put_blob(port, b"something new"),
        await put_blob(port, LARGE),
        await request(port, "DELETE", name),
        await request(port, "DELETE", "/v2/a/b/manifests/v1"),
        await request(port, "POST", f"/v2/c/d/blobs/uploads/?mount={DIGEST}&from=a/b", b""),
    ]
    assert [answer.refusal for answer in asked] == [UNAVAILABLE] * len(asked)
    assert "mount it again, or restart" in server.log()
    assert (await request(port, "HEAD", name)).status == 503
    assert (await session.patch(DATA)).refusal == UNAVAILABLE
    assert (await session.close(DIGEST, DATA)).refusal == UNAVAILABLE


async def works(port: int) -> None:
    assert (await get_blob(port, DIGEST)).body == DATA
    assert (await get_blob(port, digest_of(b"never pushed"))).status == 404
    assert (await put_blob(port, LARGE)).status == 201


def unmount(data: Path) -> None:
    """Not lazily: nothing of the server may hold it."""
    subprocess.run(["umount", data], check=True)


async def test_unmounted(
    data: Path, mount: Callable[[], None], serve: Callable[..., Server]
) -> None:
    server = serve()
    assert (await put_blob(server.port, DATA)).status == 201
    session = await Session.begin(server.port)
    for _ in range(2):
        unmount(data)
        await refuses(server, session)
        assert os.listdir(data) == []
        mount()
        await works(server.port)
    server.stop()


async def test_moved_away(data: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    assert (await put_blob(server.port, DATA)).status == 201
    session = await Session.begin(server.port)
    os.rename(data, data.with_name("away"))
    await refuses(server, session)
    assert os.listdir(data.parent) == ["away"]
    os.rename(data.with_name("away"), data)
    await works(server.port)
    server.stop()


async def test_workers_that_die_meanwhile(
    data: Path, mount: Callable[[], None], serve: Callable[..., Server]
) -> None:
    """They are started again, and must not make a directory of their own."""
    server = serve(EPOCH_WORKERS="2")
    assert (await put_blob(server.port, DATA)).status == 201
    parent = server.process.pid

    def workers() -> list[int]:
        found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [int(pid) for pid in found]

    unmount(data)
    for pid in workers():
        os.kill(pid, 9)
    await eventually(lambda: server.log().count("a worker died") >= 4)
    assert os.listdir(data) == []
    mount()
    async with asyncio.timeout(20):
        while True:
            try:
                assert (await get_blob(server.port, DIGEST)).body == DATA
            except OSError:
                await asyncio.sleep(0.1)
            else:
                break
    server.terminate()
    assert server.wait() == 0
