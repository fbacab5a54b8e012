"""The process told to end, killed, starved of disk or memory: what was answered 201 stays."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from epoch.config import MIB, S3Settings
from epoch.store.s3.store import S3Store
from tests.faults.proxy import Fault, proxied
from tests.tools.client import Client, digest_of, get_blob, has_blob, head, put_blob, request
from tests.tools.fixtures import StartServer, open_place
from tests.tools.machine import program
from tests.tools.running import PART, eventually
from tests.tools.server import Server

DATA = random.Random(12).randbytes(2 * PART + 99)
DIGEST = digest_of(DATA)
DIRECTORY = pytest.mark.parametrize("place", ["directory"], indirect=True)


async def _begin(client: Client, count: int) -> None:
    """The head of a push, and `count` bytes of its body."""
    await client.send(head("PUT", f"/v2/a/b/blobs/{DIGEST}", DATA) + DATA[:count])


async def _metric(server: Server, name: str) -> float:
    text = (await request(server.port, "GET", "/metrics")).body.decode()
    (value,) = [line.split()[1] for line in text.splitlines() if line.startswith(name + " ")]
    return float(value)


async def _until_metric(server: Server, name: str, value: float) -> None:
    async with asyncio.timeout(20):
        while await _metric(server, name) != value:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.02)


async def _left(place: S3Settings | Path) -> tuple[list[str], int]:
    """Keys of objects, and number of multipart uploads."""
    store = open_place(place)
    await store.check()
    keys = [info.key async for info in store.list("")]
    uploads = [upload async for upload, _ in store.list_multiparts("")]
    for upload in uploads:
        await store.abort_multipart(upload)
    await store.close()
    return keys, len(uploads)


async def test_sigterm_lets_pushes_finish(start_server: StartServer) -> None:
    server = start_server()
    async with Client(server.port) as client:
        await _begin(client, PART + 1)
        await _until_metric(server, "epoch_multipart_uploads", 1)
        server.terminate()
        await eventually(lambda: " info stopping " in server.log())
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        await client.send(DATA[PART + 1 :])
        answer = await client.answer()
        assert answer.status == 201
        assert answer.headers["connection"] == "close"
        assert await client.at_end()
    server.assert_ended_well()
    again = start_server()
    assert (await get_blob(again.port, DIGEST)).digest == DIGEST


@pytest.mark.parametrize("twice", [False, True], ids=["after-the-grace", "second-signal"])
async def test_what_is_cut_leaves_nothing(
    start_server: StartServer, place: S3Settings | Path, twice: bool
) -> None:
    server = start_server({"EPOCH_SHUTDOWN_GRACE": "60" if twice else "1"})
    async with Client(server.port) as client:
        await _begin(client, PART + 1)
        await _until_metric(server, "epoch_multipart_uploads", 1)
        started = time.monotonic()
        server.terminate()
        await eventually(lambda: " info stopping " in server.log())
        if twice:
            server.terminate()
        assert await client.at_end()
        await asyncio.to_thread(server.assert_ended_well)
        assert time.monotonic() - started < 6.0
    assert await _left(place) == ([], 0)


async def test_a_dead_store_does_not_hold_the_end(s3_settings: S3Settings) -> None:
    """The store falls silent amid a push; the abort cannot work, and the process ends anyway."""
    async with proxied(s3_settings) as (proxy, through):
        extra = {"EPOCH_PART_SIZE": "5MiB", "EPOCH_SHUTDOWN_GRACE": "1"}
        # In a thread: the proxy that it asks runs in this one.
        server = await asyncio.to_thread(Server, through, extra)
        try:
            async with Client(server.port) as client:
                await _begin(client, PART + 1)
                await _until_metric(server, "epoch_multipart_uploads", 1)
                proxy.faults = [Fault("stall")]
                started = time.monotonic()
                server.terminate()
                await asyncio.to_thread(server.assert_ended_well)
                assert time.monotonic() - started < 15.0
        finally:
            server.kill()
    assert (await _left(s3_settings))[0] == []


async def test_kill_and_restart(start_server: StartServer, place: S3Settings | Path) -> None:
    """SIGKILL amid pushes: what was answered 201 is there, nothing else is, restart is quick."""
    for count in (1, PART + 1, len(DATA)):
        server = start_server()
        small = b"answered before %d" % count
        assert (await put_blob(server.port, small)).status == 201
        async with Client(server.port) as client:
            await _begin(client, count)
            if count < len(DATA):
                await _until_metric(server, "epoch_multipart_uploads", float(count > PART))
            server.kill()
        again = start_server()
        assert (await get_blob(again.port, digest_of(small))).body == small
        pulled = await get_blob(again.port, DIGEST)
        # Killed after the last byte, it may have been stored, unanswered; then it is whole.
        assert pulled.status == 404 or (count == len(DATA) and pulled.digest == DIGEST)
        assert (await put_blob(again.port, DATA)).status == 201
        assert (await get_blob(again.port, DIGEST)).digest == DIGEST
        assert (await request(again.port, "DELETE", f"/v2/a/b/blobs/{DIGEST}")).status == 202
        again.stop()
        assert again.start_seconds < 5.0


@DIRECTORY
async def test_file_size_limit(start_server: StartServer, place: Path) -> None:
    """A write fails amid a part (EFBIG): 503, no temporary file, and the rest goes on."""
    server = start_server(before=[program("prlimit"), f"--fsize={PART + 1000}", "--"])
    kept = DATA[:1000]
    assert (await put_blob(server.port, kept)).status == 201
    for data in (DATA, DATA[: PART + 2000], [DATA]):
        target = f"/v2/a/b/blobs/{digest_of(data if isinstance(data, bytes) else data[0])}"
        answer = await request(server.port, "PUT", target, data)
        assert answer.refusal == (503, "UNAVAILABLE")
        assert "too large" in server.log()
    assert (await get_blob(server.port, digest_of(kept))).body == kept
    await _until_metric(server, "epoch_buffer_lent_bytes", 0)
    server.stop()
    assert await _left(place) == ([f"blobs/sha256/{digest_of(kept).removeprefix('sha256:')}"], 0)
    assert os.listdir(place / "_tmp") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = [program("mount"), "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_full_disk(small_disk: Path) -> None:
    server = Server(small_disk / "store", {"EPOCH_PART_SIZE": "5MiB"})
    try:
        kept = DATA[:1000]
        assert (await put_blob(server.port, kept)).status == 201
        for _ in range(3):
            answer = await put_blob(server.port, DATA)
            assert answer.refusal == (503, "UNAVAILABLE")
            assert "no space is left" in server.log()
            assert answer.headers["retry-after"] == "60"
        assert (await get_blob(server.port, digest_of(kept))).body == kept
        # What was cleared away has room again.
        assert (await put_blob(server.port, DATA[: PART + 1])).status == 201
        server.stop()
    finally:
        server.kill()
    assert await _left(small_disk / "store") == (
        sorted(f"blobs/sha256/{digest_of(d)[7:]}" for d in (kept, DATA[: PART + 1])),
        0,
    )
    assert os.listdir(small_disk / "store" / "_tmp") == []


async def test_read_only_disk(small_disk: Path) -> None:
    server = Server(small_disk / "store", {"EPOCH_PART_SIZE": "5MiB"})
    try:
        kept = DATA[:1000]
        assert (await put_blob(server.port, kept)).status == 201
        await asyncio.to_thread(
            subprocess.run, ["mount", "-o", "remount,ro", str(small_disk)], check=True
        )
        for data in (DATA[:2000], DATA[: PART + 1]):
            answer = await put_blob(server.port, data)
            assert answer.refusal == (503, "UNAVAILABLE")
            assert "read-only" in server.log()
        assert (await get_blob(server.port, digest_of(kept))).body == kept
        assert not await has_blob(server.port, digest_of(DATA[:2000]))
        await _until_metric(server, "epoch_buffer_lent_bytes", 0)
        server.stop()
    finally:
        server.kill()


async def test_slow_store_bounds_memory(s3_settings: S3Settings) -> None:
    """The store takes 8 MiB/s at most; the pushes wait for it and live, in bounded memory."""
    budget = 32 * MIB
    async with proxied(s3_settings) as (proxy, through):
        settings = {"EPOCH_PART_SIZE": "5MiB", "EPOCH_BUFFER_BUDGET": "32MiB"}
        # In a thread: the proxy that it asks runs in this one.
        server = await asyncio.to_thread(Server, through, settings)
        try:
            assert (await put_blob(server.port, b"warm")).status == 201
            idle = server.memory()
            proxy.rate = 4 * MIB
            blobs = [DATA[number:] + DATA for number in range(4)]
            answers = await asyncio.gather(*(put_blob(server.port, b, limit=60) for b in blobs))
            assert [answer.status for answer in answers] == [201] * 4
            assert server.peak_memory() <= idle + budget + 16 * MIB
            await asyncio.to_thread(server.stop)
        finally:
            server.kill()
    store = S3Store(s3_settings)
    assert [upload async for upload, _ in store.list_multiparts("")] == []
    await store.close()
