"""Many requests on one session, in one server and in two over one store: the bytes at the end are
those of one order of the requests that were answered with success."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from epoch.config import S3Settings
from tests.tools.client import Answer, Client, digest_of, encode_chunk, get_blob, has_blob, head
from tests.tools.fixtures import StartServer, open_place
from tests.tools.running import PART, serving
from tests.tools.sessions import Session, leftovers, push

DATA = random.Random(11).randbytes(4 * PART)
Wanted = tuple[str, bytes, str]
"""Method, body, Content-Range."""


async def _race(session: Session, ports: Sequence[int], wanted: list[Wanted]) -> list[Answer]:
    """The answers to requests whose connections are open and whose heads are sent before."""
    start = asyncio.Event()
    ready = 0

    async def one(number: int, method: str, body: bytes, more: str) -> Answer:
        nonlocal ready
        async with Client(ports[number % len(ports)]) as client:
            target = session.location + (f"?digest={more}" if method == "PUT" else "")
            fields = [f"Content-Range: {more}"] if method == "PATCH" else []
            text = head(method, target, body if method in ("PATCH", "PUT") else None, *fields)
            ready += 1
            if ready == len(wanted):
                start.set()
            await start.wait()
            with contextlib.suppress(ConnectionError):  # refused early: the answer can be read
                await client.send(text + body)
            return await client.answer(limit=60)

    return await asyncio.gather(*(one(n, *each) for n, each in enumerate(wanted)))


async def _grow(session: Session, ports: Sequence[int], count: int, rng: random.Random) -> bytes:
    """Rounds of racing chunks, each for the same place; what was taken, in order."""
    content = b""
    for size in (70, 1000, PART + 10, PART - 3, 40_000):
        bodies = [rng.randbytes(8) + DATA[n : n + size] for n in range(count)]
        place = f"{len(content)}-{len(content) + size + 7}"
        answers = await _race(session, ports, [("PATCH", body, place) for body in bodies])
        taken = [n for n, answer in enumerate(answers) if answer.status == 202]
        assert len(taken) <= 1, [answers[n] for n in taken]
        assert {answer.status for answer in answers} <= {202, 416}
        if taken:
            content += bodies[taken[0]]
        session.port = rng.choice(ports)
        assert await session.offset() == len(content)
    assert content
    return content


async def _end(session: Session, ports: Sequence[int], content: bytes, rng: random.Random) -> bool:
    """Everything at once; whether the blob was made."""
    digest = digest_of(content)
    more = f"{len(content)}-{len(content) + 99}"
    wanted: list[Wanted] = [("PATCH", rng.randbytes(100), more) for _ in range(16)]
    wanted += [("PUT", b"", digest)] * 16 + [("GET", b"", "")] * 28 + [("DELETE", b"", "")] * 4
    rng.shuffle(wanted)
    answers = await _race(session, ports, wanted)
    seen: dict[str, list[int]] = {"PATCH": [], "PUT": [], "GET": [], "DELETE": []}
    for (method, _, _), answer in zip(wanted, answers, strict=True):
        seen[method].append(answer.status)
    assert set(seen["PATCH"]) <= {202, 404, 416}, seen
    assert set(seen["PUT"]) <= {201, 400, 404, 416}, seen
    assert set(seen["GET"]) <= {204, 404}, seen
    assert set(seen["DELETE"]) <= {204, 404, 416}, seen
    grown, made, refused = seen["PATCH"].count(202), 201 in seen["PUT"], seen["PUT"].count(400)
    assert grown <= 1, seen
    assert seen["DELETE"].count(204) + refused + made <= 1, seen
    assert not (grown and made), seen
    assert grown or not refused, seen
    return made


async def _rounds(ports: Sequence[int], seed: int) -> tuple[list[bytes], list[bytes]]:
    """Blobs that were made, and those that were not."""
    rng = random.Random(seed)
    made, lost = [], []
    session = await Session.begin(ports[0])
    content = await _grow(session, ports, 16, rng)
    if not await _end(session, ports, content, rng):
        lost.append(content)
        await session.cancel()
        # Once more, so that what was raced for is looked at.
        session = await Session.begin(ports[0])
        content = await _grow(session, ports, 8, rng)
        assert (await session.close(digest_of(content))).status == 201
    made.append(content)
    for content in made:
        blob = await get_blob(ports[-1], digest_of(content))
        assert (blob.status, blob.digest) == (200, digest_of(content))
    return made, lost


@pytest.mark.parametrize("servers", [1, 2])
async def test_races_on_one_session(place: S3Settings | Path, servers: int) -> None:
    async with (
        serving(open_place(place), leaves=True, alone=False) as one,
        serving(open_place(place), leaves=True, alone=False) as two,
    ):
        ports = [one.port, two.port][:servers]
        _, lost = await _rounds(ports, servers)
        for running in (one, two):
            await running.until_idle()
        for content in lost:
            assert not await has_blob(one.port, digest_of(content))
        assert await leftovers(one.store) == []
        assert one.budget.pool.lent == two.budget.pool.lent == 0


async def test_races_over_two_processes(start_server: StartServer) -> None:
    await _rounds([start_server().port, start_server().port], 5)


@pytest.mark.parametrize(("count", "size"), [(2, PART + 33), (8, PART + 33), (60, 1000)])
async def test_many_push_one_blob(place: S3Settings | Path, count: int, size: int) -> None:
    if isinstance(place, Path):
        count = count * 7 // 2
    async with (
        serving(open_place(place), leaves=True, alone=False) as one,
        serving(open_place(place), leaves=True, alone=False) as two,
    ):
        ports = [one.port, two.port]
        answers = await asyncio.gather(
            *(push(ports[n % 2], DATA[:size], name=f"r{n}/x") for n in range(count))
        )
        assert [answer.status for answer in answers] == [201] * count
        blob = await get_blob(one.port, digest_of(DATA[:size]), name="r0/x")
        assert blob.digest == digest_of(DATA[:size])
        for running in (one, two):
            await running.until_idle()
        assert await leftovers(one.store) == []


async def test_late_writer_harms_no_blob(place: S3Settings | Path) -> None:
    """A request that has lost still writes parts where the winner's are: what it spoils is never
    stored under a digest."""
    async with (
        serving(open_place(place), leaves=True, alone=False) as one,
        serving(open_place(place), leaves=True, alone=False) as two,
    ):
        session = await Session.begin(two.port)
        assert (await session.patch(DATA[:PART])).status == 202
        garbage = bytes(PART)
        async with Client(one.port) as late:
            await late.send(head("PATCH", session.location, [b""]))
            await late.send(encode_chunk(garbage + b"more"))
            # It has begun to write, as its next generation says.
            state = "/00000002"
            while not any(key.endswith(state) for key in await one.keys()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            place_of = f"{PART}-{len(DATA) - 1}"
            assert (await session.patch(DATA[PART:], place_of)).status == 202
            await late.send(encode_chunk(garbage + garbage) + b"0\r\n\r\n")
            assert (await late.answer()).refusal == (416, "BLOB_UPLOAD_INVALID")
        answer = await session.close(digest_of(DATA))
        assert answer.status in (201, 404)
        blob = await get_blob(two.port, digest_of(DATA))
        if answer.status == 201:
            assert blob.digest == digest_of(DATA)
        else:
            assert blob.status == 404
            await session.cancel()
        for running in (one, two):
            await running.until_idle()
        assert await leftovers(one.store) == []
