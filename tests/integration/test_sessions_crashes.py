"""A server that dies at any call to its store, or is killed: its client asks, and goes on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from epoch.config import S3Settings
from epoch.store.directory.store import DirectoryStore
from tests.tools.client import digest_of, get_blob
from tests.tools.failing import Failing
from tests.tools.fixtures import StartServer, open_place
from tests.tools.running import PART, serving
from tests.tools.sessions import Session, go_on, leftovers

DATA = random.Random(13).randbytes(2 * PART + 1000)
FLOWS = {
    "small": (DATA[:3000], [1000, 1000, 1000], 0),
    "docker": (DATA[: PART + 1000], [PART + 1000], 0),
    "chunks": (DATA, [PART // 2, PART, PART // 2 + 900], 100),
}
"""Content, sizes of the chunks, how much comes with the closing PUT."""


async def _push(session: Session, flow: str) -> int:
    """All of it, up to the first refusal, whose status it returns; else 201."""
    data, sizes, _ = FLOWS[flow]
    at = 0
    for size in sizes:
        answer = await session.patch(data[at : at + size])
        if answer.status != 202:
            return answer.status
        at += size
    return (await session.close(digest_of(data), data[at:])).status


async def _assert_whole(port: int, data: bytes) -> None:
    blob = await get_blob(port, digest_of(data))
    assert (blob.status, blob.digest) == (200, digest_of(data))


async def _count_calls(failing: Failing, flow: str) -> int:
    """Calls of one whole push after its POST."""
    async with serving(failing.as_store) as running:
        session = await Session.begin(running.port)
        failing.fail(0)
        assert await _push(session, flow) == 201
        await running.until_idle()
        return len(failing.calls)


async def _forget(failing: Failing, data: bytes) -> None:
    """The blob, and what could not be cleaned up behind a push that was answered with success."""
    await failing.store.delete(f"blobs/sha256/{digest_of(data)[7:]}")
    for key in [info.key async for info in failing.store.list("_uploads/")]:
        if key != "_uploads/secret":
            await failing.store.delete(key)


def _store(place: S3Settings | Path) -> Failing:
    if isinstance(place, Path):
        return Failing(DirectoryStore(place, fsync=False))
    return Failing(open_place(place))


async def _dies(failing: Failing, flow: str, nth: int, *, after: bool) -> None:
    """Nothing more reaches the store; another server goes on."""
    data = FLOWS[flow][0]
    async with serving(failing.as_store, leaves=True) as running:
        session = await Session.begin(running.port)
        failing.fail(nth, after=after, for_good=True)
        status = await _push(session, flow)
        assert status in (201, 503), (nth, failing.calls)
        await running.until_idle()
    assert failing.struck
    failing.fail(0)
    async with serving(failing.as_store, leaves=True) as running:
        session = Session(running.port, session.location, session.name)
        answer = await go_on(session, data)
        assert answer.status == 201, (nth, after, status, answer)
        await _assert_whole(running.port, data)
        assert (await session.close(digest_of(data))).status == 201
        await running.until_idle()
    assert await leftovers(failing.store) == []


async def _stumbles(failing: Failing, flow: str, nth: int, *, after: bool, cancel: bool) -> None:
    """One call fails; the same server goes on, or the client gives up."""
    data = FLOWS[flow][0]
    async with serving(failing.as_store, leaves=True) as running:
        session = await Session.begin(running.port)
        failing.fail(nth, after=after)
        status = await _push(session, flow)
        assert status in (201, 503), (nth, failing.calls)
        await running.until_idle()
        failing.fail(0)
        if cancel:
            assert (await session.cancel()).status == (404 if status == 201 else 204)
        else:
            answer = await go_on(session, data)
            assert answer.status == 201, (nth, after, status, answer)
            await _assert_whole(running.port, data)
        await running.until_idle()
    if status != 201:
        assert await leftovers(failing.store) == [], (nth, after, failing.calls)


async def _every_call(failing: Failing, flow: str, step: int = 1) -> None:
    """Each `step`-th call, the last one among them."""
    data = FLOWS[flow][0]
    count = await _count_calls(failing, flow)
    assert count > 5
    for nth in range(count, 0, -step):
        for after in (False, True):
            await _forget(failing, data)
            await _dies(failing, flow, nth, after=after)
            await _forget(failing, data)
            await _stumbles(failing, flow, nth, after=after, cancel=False)
            await _forget(failing, data)
            await _stumbles(failing, flow, nth, after=after, cancel=True)


@pytest.mark.parametrize(("flow", "step"), [("small", 3), ("docker", 3), ("chunks", 11)])
async def test_store_fails_at_some_calls(tmp_path: Path, flow: str, step: int) -> None:
    failing = Failing(DirectoryStore(tmp_path, fsync=False))
    await _every_call(failing, flow, step)
    await failing.store.close()


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.timeout(900)
async def test_store_fails_at_every_call(place: S3Settings | Path, flow: str) -> None:
    failing = _store(place)
    await _every_call(failing, flow)
    await failing.store.close()


@pytest.mark.parametrize("flow", ["docker", "chunks"])
async def test_killed_after_every_request(start_server: StartServer, flow: str) -> None:
    """SIGKILL, and a new process goes on from what GET says."""
    data, sizes, _ = FLOWS[flow]
    server = start_server()
    session = await Session.begin(server.port)
    at = 0
    for size in sizes:
        server.kill()
        server = start_server()
        session.port = server.port
        assert await session.offset() == at
        answer = await session.patch(data[at : at + size], f"{at}-{at + size - 1}")
        assert answer.status == 202
        at += size
    for _ in range(2):
        server.kill()
        server = start_server()
        session.port = server.port
        assert (await session.close(digest_of(data), data[at:])).status == 201
    await _assert_whole(server.port, data)
