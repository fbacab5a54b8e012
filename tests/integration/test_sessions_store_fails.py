"""The store fails for good in the middle of a PATCH or a closing PUT: the parts that it has are
kept, and the client goes on behind them."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epoch.config import S3Settings
from epoch.store.base import Multipart
from tests.tools.client import digest_of, get_blob, has_blob, pieces
from tests.tools.failing import Failing
from tests.tools.fixtures import open_place
from tests.tools.running import PART, Running, serving
from tests.tools.sessions import Session, go_on, leftovers

DATA = random.Random(23).randbytes(12 * PART + 77)


@pytest.fixture
async def failing(place: S3Settings | Path) -> AsyncIterator[Failing]:
    """A store that can be made to fail."""
    store = Failing(open_place(place))
    await store.store.check()
    yield store
    await store.store.close()


async def _assert_gone_on_with(
    running: Running, failing: Failing, session: Session, data: bytes
) -> None:
    answer = await go_on(session, data)
    assert answer.status == 201, answer
    assert (await get_blob(running.port, digest_of(data))).digest == digest_of(data)
    await running.until_idle()
    assert await leftovers(failing.store) == []


async def _assert_kept(
    running: Running, failing: Failing, session: Session, data: bytes, before: int, kept: int
) -> None:
    """The PATCH of what comes behind `before` fails, and the session stands at `kept`."""
    assert (await session.patch(data[before:])).refusal == (503, "UNAVAILABLE")
    assert failing.struck
    assert await session.offset() == kept
    if kept:
        # A client that does not know where it stands is not to append.
        assert (await session.patch(data[before:])).refusal == (416, "BLOB_UPLOAD_INVALID")
        assert (await session.close(digest_of(data), data[-77:])).status == 416
        assert await session.offset() == kept
    await _assert_gone_on_with(running, failing, session, data)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("before", [0, PART + 77])
async def test_ten_parts_are_stored_when_the_eleventh_fails(
    failing: Failing, before: int, threads: int
) -> None:
    async with serving(failing.as_store, hash_threads=threads, leaves=True) as running:
        session = await Session.begin(running.port)
        if before:
            assert (await session.patch(DATA[:before])).status == 202
            await running.until_idle()
        failing.fail(10 if before else 11, "put_part")
        await _assert_kept(running, failing, session, DATA, before, 10 * PART)


@pytest.mark.parametrize(
    ("call", "nth", "kept"),
    [
        ("create_multipart", 1, 0),
        ("put_part", 1, 0),
        ("put_part", 2, PART),
        ("put_part", 3, 2 * PART),  # the tail, as a part
        ("put", 1, 2 * PART),  # the tail
        ("put_new", 1, 2 * PART),  # the generation
    ],
)
async def test_whatever_fails(failing: Failing, call: str, nth: int, kept: int) -> None:
    async with serving(failing.as_store, parts_in_flight=1, leaves=True) as running:
        session = await Session.begin(running.port)
        failing.fail(nth, call)
        await _assert_kept(running, failing, session, DATA[: 2 * PART + 77], 0, kept)


async def test_of_a_closing_put(failing: Failing) -> None:
    data = DATA[: 2 * PART + 77]
    async with serving(failing.as_store, parts_in_flight=1, leaves=True) as running:
        session = await Session.begin(running.port)
        assert (await session.patch(data[:3000])).status == 202
        await running.until_idle()
        failing.fail(2, "put_part")
        body = pieces(data[3000:], 300_000)
        assert (await session.close(digest_of(data), body)).status == 503
        assert await session.offset() == PART
        assert (await session.close(digest_of(data), body)).status == 416
        await _assert_gone_on_with(running, failing, session, data)


async def test_a_store_that_stays_away_leaves_the_session_as_it_was(failing: Failing) -> None:
    data = DATA[: 2 * PART + 77]
    async with serving(failing.as_store, parts_in_flight=1, leaves=True) as running:
        session = await Session.begin(running.port)
        assert (await session.patch(data[:3000])).status == 202
        await running.until_idle()
        failing.fail(2, "put_part", for_good=True)
        assert (await session.patch(data[3000:])).status == 503
        assert (await session.status()).status == 503
        await running.until_idle()
        failing.fail(0)
        assert await session.offset() == 3000
        await _assert_gone_on_with(running, failing, session, data)


async def test_it_goes_on_in_another_process_after_every_failure(failing: Failing) -> None:
    """Two parts each time."""
    location, at, data = "", 0, DATA[: 6 * PART + 77]
    while at < 6 * PART:
        async with serving(failing.as_store, parts_in_flight=1, leaves=True) as running:
            session = Session(running.port, location, "a/b")
            if not location:
                session = await Session.begin(running.port)
                location = session.location
            failing.fail(3, "put_part")
            answer = await session.patch(data[at:], f"{at}-{len(data) - 1}")
            assert answer.status == 503
            failing.fail(0)
            at += 2 * PART
            assert await session.offset() == at
    async with serving(failing.as_store, leaves=True) as running:
        session = Session(running.port, location, "a/b")
        await _assert_gone_on_with(running, failing, session, data)


@pytest.mark.parametrize("late", [False, True])
async def test_a_part_whose_answer_was_lost(failing: Failing, late: bool) -> None:
    """It is stored, and the client goes on with other bytes; `late`: it arrives after those."""
    data = DATA[: 3 * PART + 5]
    other = data[:PART] + DATA[5 * PART : 7 * PART + 5]
    async with serving(failing.as_store, parts_in_flight=1, leaves=True) as running:
        session = await Session.begin(running.port)
        failing.fail(2, "put_part", after=True)
        assert (await session.patch(data)).status == 503
        assert await session.offset() == PART
        await running.until_idle()
        place = f"{PART}-{len(other) - 1}"
        assert (await session.patch(other[PART:], place)).status == 202
        if late:
            upload = await _upload_of(failing)
            await failing.store.put_part(upload, 2, PART, data[PART : 2 * PART])
        answer = await session.close(digest_of(other))
        if answer.status == 201:
            assert (await get_blob(running.port, digest_of(other))).digest == digest_of(other)
        else:  # some stores choose by the etag among two parts of one number, some have only one
            assert late
            assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN")
            assert not await has_blob(running.port, digest_of(other))
        await running.until_idle()
        assert await leftovers(failing.store) == []


async def _upload_of(failing: Failing) -> Multipart:
    """The multipart upload that the newest generation names."""
    keys = [info.key async for info in failing.store.list("_uploads/") if "/state/" in info.key]
    state = (await failing.store.get(keys[-1], 100_000) or b"").partition(b"\n")[0]
    return Multipart(f"{keys[-1].partition('/state/')[0]}/data", json.loads(state)["upload_id"])


@pytest.mark.parametrize("closes", [False, True])
async def test_an_upload_that_the_store_has_lost(failing: Failing, closes: bool) -> None:
    """A lifecycle rule has aborted it: 404, for the client to begin again, and not 503 for ever."""
    data = DATA[: PART + 77]
    async with serving(failing.as_store, leaves=True) as running:
        session = await Session.begin(running.port)
        assert (await session.patch(data)).status == 202
        await running.until_idle()
        await failing.store.abort_multipart(await _upload_of(failing))
        if closes:
            answer = await session.close(digest_of(data))
        else:
            answer = await session.patch(DATA[len(data) : 3 * PART])
        assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN")
        assert (await session.status()).status == 404
        await running.until_idle()
        assert await leftovers(failing.store) == []
