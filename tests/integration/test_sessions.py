"""Uploads in several requests: what each client sends, over each store."""

from __future__ import annotations

import hmac
import random
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from epoch import layout
from epoch.app import make_collector
from epoch.config import S3Settings, Settings
from epoch.metrics import metrics
from epoch.store.directory.store import DirectoryStore
from epoch.upload import session_store
from epoch.upload.session_store import LIFETIME
from tests.tools.aged import Aged
from tests.tools.client import Answer, Client, digest_of, get_blob, has_blob, head, pieces, request
from tests.tools.failing import Failing
from tests.tools.fixtures import open_place
from tests.tools.running import PART, Running, eventually, serving
from tests.tools.sessions import Session, end_of, leftovers

DATA = random.Random(7).randbytes(3 * PART + 4)


async def _docker(session: Session, data: bytes, digest: str) -> Answer:
    answer = await session.patch(pieces(data, 300_007))
    assert answer.status == 202, answer
    assert end_of(answer) == (len(data) if len(data) > 1 else 0)
    return await session.close(digest)


async def _crane(session: Session, data: bytes, digest: str) -> Answer:
    assert (await session.patch(data)).status == 202
    return await session.close(digest)


async def _regclient(session: Session, data: bytes, digest: str) -> Answer:
    """Chunks with Content-Range, the last one in the closing PUT."""
    size = max(1, len(data) // 3 + 1)
    chunks = pieces(data, size) or [b""]
    at = 0
    for chunk in chunks[:-1]:
        answer = await session.patch(chunk, f"{at}-{at + len(chunk) - 1}")
        assert answer.status == 202, answer
        at += len(chunk)
        assert answer.headers["range"] == f"0-{at - 1}"
        assert answer.headers["location"] == session.location
    last = chunks[-1]
    return await session.close(digest, last, f"{at}-{at + len(last) - 1}" if last else None)


async def _containerd(session: Session, data: bytes, digest: str) -> Answer:
    return await session.close(digest, data)


async def _chunked_put(session: Session, data: bytes, digest: str) -> Answer:
    half = len(data) // 2
    assert (await session.patch(pieces(data[:half], 99_999))).status == 202
    return await session.close(digest, pieces(data[half:], 1_000_001))


Flow = Callable[[Session, bytes, str], Awaitable[Answer]]
FLOWS: list[Flow] = [_docker, _crane, _regclient, _containerd, _chunked_put]
SIZES = [0, 1, 2, 1000, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 4]


async def _assert_stored(running: Running, data: bytes, digest: str) -> None:
    """The blob is there, whole, and nothing else is but markers."""
    blob = await get_blob(running.port, digest)
    assert (blob.status, blob.digest) == (200, digest_of(data))
    await running.assert_holds_nothing()
    assert await leftovers(running.store) == []


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.__name__.strip("_"))
async def test_every_flow_and_size(running: Running, flow: Flow) -> None:
    for size in SIZES:
        data = DATA[:size]
        digest = digest_of(data)
        session = await Session.begin(running.port)
        answer = await flow(session, data, digest)
        assert answer.status == 201, answer
        assert answer.headers["location"] == f"/v2/a/b/blobs/{digest}"
        assert answer.headers["docker-content-digest"] == digest
        await _assert_stored(running, data, digest)
        assert (await session.close(digest)).status == 201
        assert (await session.status()).refusal == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("flow", [_docker, _regclient, _containerd])
async def test_sha512_named_only_at_the_end(running: Running, flow: Flow) -> None:
    for size in (0, 1000, PART, PART + 1):
        data = DATA[:size]
        digest = digest_of(data, "sha512")
        for _ in range(2):  # the second time it is there already
            session = await Session.begin(running.port)
            assert (await flow(session, data, digest)).status == 201
            assert (await session.close(digest)).status == 201
            await _assert_stored(running, data, digest)


async def test_wrong_digest_ends_the_session(running: Running) -> None:
    for size in (0, PART + 1):
        for algorithm in ("sha256", "sha512"):
            session = await Session.begin(running.port)
            assert (await session.patch(DATA[:size])).status == 202
            answer = await session.close(digest_of(b"something else", algorithm))
            assert answer.refusal == (400, "DIGEST_INVALID")
            assert (await session.status()).status == 404
            assert (await session.patch(b"x")).status == 404
            assert (await session.close(digest_of(DATA[:size]))).status == 404
            assert not await has_blob(running.port, digest_of(DATA[:size]))
    await running.assert_holds_nothing()
    assert await leftovers(running.store) == []
    assert not [key for key in await running.keys() if key.startswith("blobs/")]


@pytest.mark.parametrize("size", [0, 1000, PART + 1])
async def test_cancel(running: Running, size: int) -> None:
    session = await Session.begin(running.port)
    if size:
        assert (await session.patch(DATA[:size])).status == 202
    assert (await session.cancel()).status == 204
    for answer in (
        await session.cancel(),
        await session.status(),
        await session.patch(b"x"),
        await session.close(digest_of(DATA[:size])),
    ):
        assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN")
    await running.assert_holds_nothing()
    assert await leftovers(running.store) == []


@pytest.mark.parametrize("size", [10, PART + 10])
async def test_chunks_that_do_not_follow(running: Running, size: int) -> None:
    """Refused without harm: the session goes on where it stood."""
    session = await Session.begin(running.port)
    assert (await session.patch(DATA[:size], f"0-{size - 1}")).status == 202
    more = DATA[size : size + 1000]
    end = size + len(more) - 1
    for wrong in (f"{size + 1}-{end + 1}", f"0-{len(more) - 1}", f"{size - 1}-{end - 1}"):
        for answer in (
            await session.patch(more, wrong),
            await session.patch(pieces(more, 300), wrong),
            await session.close(digest_of(DATA), more, wrong),
        ):
            assert answer.refusal == (416, "BLOB_UPLOAD_INVALID")
            assert answer.headers["range"] == f"0-{size - 1}"
    assert (await session.patch(more, f"{size}-{size - 1}")).status == 416
    for wrong in ("x", f"bytes {size}-{end}/*", f"-{end}", f"{size}-", f"{size}--{end}"):
        assert (await session.patch(more, wrong)).refusal == (400, "BLOB_UPLOAD_INVALID")
    for wrong in (f"{size}-{end + 1}", f"{size}-{end - 1}", f"{size}-{size}"):
        assert (await session.patch(more, wrong)).refusal == (400, "SIZE_INVALID")
        answer = await session.patch(pieces(more, 300), wrong)
        assert answer.codes == ["SIZE_INVALID"]
        assert answer.status in (400, 413)
    assert (await session.patch(b"", f"{size}-{end}")).refusal == (400, "SIZE_INVALID")
    assert (await session.patch(b"")).status == 202
    assert await session.offset() == size
    assert (await session.patch(more, f"{size}-{end}")).headers["range"] == f"0-{end}"
    assert (await session.patch(more, f"{size}-{end}")).status == 416  # a repetition
    assert (await session.close(digest_of(DATA[: end + 1]))).status == 201
    await _assert_stored(running, DATA[: end + 1], digest_of(DATA[: end + 1]))


@pytest.mark.parametrize("keep", [0, 1, 70_000, PART + 70_000])
@pytest.mark.parametrize("ending", ["fin", "rst", "half-close"])
async def test_cut_chunk_is_kept_and_gone_on_with(running: Running, keep: int, ending: str) -> None:
    for before in (0, PART + 3):
        data = DATA[:before] + DATA[: 2 * PART]
        session = await Session.begin(running.port)
        if before:
            assert (await session.patch(data[:before])).status == 202
        received = metrics.bytes_received + keep
        async with Client(running.port) as client:
            await client.send(head("PATCH", session.location, data[before:]))
            await client.send(data[before : before + keep])
            await eventually(lambda: metrics.bytes_received == received)  # noqa: B023
            await eventually(lambda: bool(running.service.tasks))
            if ending == "half-close":
                client.finish()
                assert (await client.answer()).status == 400
            elif ending == "fin":
                client.close()
            else:
                client.reset()
        await running.until_idle()
        at = await session.offset()
        assert at == (before + keep if before + keep > 1 else 0)
        if at > before:
            assert (await session.patch(data[at:])).status == 416
        assert (await session.patch(data[at:], f"{at}-{len(data) - 1}")).status == 202
        assert (await session.close(digest_of(data))).status == 201
        await _assert_stored(running, data, digest_of(data))


@pytest.mark.parametrize("before", [0, PART])
async def test_small_chunks_stay_cheap(before: int, tmp_path: Path) -> None:
    """Objects and bytes written grow with what comes, not with what is there."""
    store = Failing(DirectoryStore(tmp_path, fsync=False))
    data = DATA[: before + 200 * 1024]
    async with serving(store.as_store) as running:
        session = await Session.begin(running.port)
        if before:
            assert (await session.patch(data[:before])).status == 202
        most_objects, parts = 0, metrics.parts
        store.calls.clear()
        for at in range(before, len(data), 1024):
            answer = await session.patch(data[at : at + 1024], f"{at}-{at + 1023}")
            assert answer.status == 202
            await running.until_idle()
            most_objects = max(most_objects, len(await running.keys()))
        assert most_objects < 20
        assert len(store.calls) < 200 * 12
        assert "put_part" not in store.calls
        assert metrics.parts == parts
        assert (await session.close(digest_of(data))).status == 201
        await _assert_stored(running, data, digest_of(data))
    await store.store.close()


@pytest.mark.parametrize(("size", "lists"), [(1000, 0), (PART + 1, 1)])
async def test_uploads_are_listed_only_where_there_were_some(
    size: int, lists: int, tmp_path: Path
) -> None:
    """With a bucket, each list costs the usual small layer a round trip."""
    store = Failing(DirectoryStore(tmp_path, fsync=False))
    data = DATA[:size]
    async with serving(store.as_store) as running:
        session = await Session.begin(running.port)
        assert (await session.patch(pieces(data, 300_007))).status == 202
        store.calls.clear()
        assert (await session.close(digest_of(data))).status == 201
        await running.until_idle()
        assert store.calls.count("list_multiparts") == lists
        await _assert_stored(running, data, digest_of(data))
    await store.store.close()


async def test_uploads_of_a_claim_that_never_ended_are_found(tmp_path: Path) -> None:
    """Another upload at the session's key, as of a creation whose answer was lost, goes too."""
    store = Failing(DirectoryStore(tmp_path, fsync=False))
    data = DATA[: PART + 1]
    async with serving(store.as_store, leaves=True) as running:
        session = await Session.begin(running.port)
        assert (await session.patch(data)).status == 202
        store.fail(1, "put_part", for_good=True)
        assert (await session.patch(DATA[:PART])).status == 503
        await running.until_idle()
    assert store.struck
    store.fail(0)
    await store.create_multipart(f"_uploads/{await _id_of(store)}/data")
    async with serving(store.as_store) as running:
        session = Session(running.port, session.location, session.name)
        store.calls.clear()
        assert (await session.close(digest_of(data))).status == 201
        await running.until_idle()
        assert "list_multiparts" in store.calls
        await _assert_stored(running, data, digest_of(data))
    await store.store.close()


async def _id_of(store: Failing) -> str:
    """The id of the only session that has any objects."""
    keys: list[str] = [info.key async for info in store.list("_uploads/")]
    (session,) = {key.split("/")[1] for key in keys} - {"secret"}
    return session


async def test_tokens_are_nobody_elses(running: Running) -> None:
    session = await Session.begin(running.port, "a/b")
    assert (await session.patch(b"some")).status == 202
    token = session.id
    rng = random.Random(3)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [token[:-1], token[1:], token + "A", token + "=", token * 2, "A", "%20", "é"]
    for at in range(len(token)):
        other = rng.choice(alphabet.replace(token[at], ""))
        others.append(token[:at] + other + token[at + 1 :])
    others.append(token.replace("-", "+", 1) if "-" in token else "+" + token[1:])
    paths = [f"/v2/a/b/blobs/uploads/{other}" for other in others]
    paths.append(f"/v2/a/c/blobs/uploads/{token}")
    paths.append(f"/v2/a/blobs/uploads/{token}")
    for path in paths:
        quoted = quote(path, safe="/%=+")
        for method, body in (("GET", None), ("PATCH", b"x"), ("DELETE", None)):
            answer = await request(running.port, method, quoted, body)
            assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN"), path
    assert await session.offset() == 4
    assert (await session.close(digest_of(b"some"))).status == 201


async def test_a_token_that_was_never_used_expires(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = SimpleNamespace(time=lambda: time.time() - 3 * LIFETIME)
    with monkeypatch.context() as patched:
        patched.setattr(session_store, "time", long_ago)
        used, unused = await Session.begin(running.port), await Session.begin(running.port)
        assert (await used.patch(b"some")).status == 202
    assert (await unused.status()).refusal == (404, "BLOB_UPLOAD_UNKNOWN")
    assert (await unused.patch(b"some")).status == 404
    assert (await used.close(digest_of(b"some"))).status == 201


async def test_a_session_expires_after_its_last_change(place: S3Settings | Path) -> None:
    """Before it can be collected under a client that goes on."""
    store = Aged(open_place(place))
    collector = make_collector(Settings(), store)
    async with serving(store, leaves=True) as running:
        session = await Session.begin(running.port)
        assert (await session.patch(b"some")).status == 202
        await running.until_idle()
        folder = [key for key in await running.keys() if key.startswith("_uploads/")]
        assert len(folder) == 2
        alive = f"{folder[0].partition('/state/')[0]}/state/alive"
        store.older(LIFETIME - 60, *folder)
        assert (await session.status()).status == 204
        for age in (LIFETIME + 60, 3 * LIFETIME):
            store.older(age, *folder)
            for answer in (
                await session.status(),
                await session.patch(b"more"),
                await session.close(digest_of(b"some")),
                await session.cancel(),
            ):
                assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN")
        # Somebody still sends, slowly.
        await store.put(alive, b"")
        assert (await session.status()).status == 204
        for age, sessions in ((LIFETIME + 60, 0), (LIFETIME + 3660, 1)):
            store.older(age, *folder, alive)
            assert (await session.status()).status == 404
            assert (await collector.collect()).sessions == sessions
        assert await leftovers(store) == []


@pytest.mark.parametrize(
    "damaged", [b"", b"short", bytes(31), bytes(32), b"x" * 33, b"<html></html>"], ids=repr
)
async def test_a_damaged_secret_signs_nothing(place: S3Settings | Path, damaged: bytes) -> None:
    store = open_place(place)
    await store.put(layout.UPLOAD_SECRET, damaged)
    async with serving(store) as running:
        answer = await request(running.port, "POST", "/v2/a/b/blobs/uploads/", b"")
        assert answer.refusal == (503, "UNAVAILABLE")
        raw = bytes(16) + int(time.time()).to_bytes(4, "big")
        message = (3).to_bytes(2, "big") + b"a/b" + raw
        token = urlsafe_b64encode(raw + hmac.digest(damaged, message, "sha256")[:16]).decode()
        location = f"/v2/a/b/blobs/uploads/{token.rstrip('=')}"
        assert (await request(running.port, "GET", location)).status == 503
        assert (await request(running.port, "PATCH", location, b"some")).status == 503
        assert await running.keys() == []


async def test_what_is_built_of_parts_is_pinned_before_it_is_moved(
    place: S3Settings | Path,
) -> None:
    """The move may take long, and others may store the blob meanwhile."""
    store = Failing(open_place(place))
    async with serving(store.as_store, leaves=True) as running:
        for data in (DATA[: PART + 1], DATA[:1000]):
            session = await Session.begin(running.port)
            assert (await session.patch(data)).status == 202
            store.fail(1, "move")
            answer = await session.close(digest_of(data))
            assert answer.status == (503 if store.struck else 201)
            pins = [key for key in await running.keys() if key.startswith("_pins/")]
            assert [key.partition("-")[2] for key in pins] == [digest_of(DATA[: PART + 1])[7:]]
            store.fail(0)
            assert (await session.close(digest_of(data))).status == 201
    await store.store.close()


async def test_all_is_in_the_store(place: S3Settings | Path) -> None:
    """Every request goes to another server, and the closing one twice."""
    data = DATA[: 2 * PART + 5]
    location = ""
    for step in range(6):
        async with serving(open_place(place), leaves=True) as running:
            session = Session(running.port, location, "a/b")
            match step:
                case 0:
                    location = (await Session.begin(running.port)).location
                case 1 | 2:
                    at = await session.offset()
                    assert at == (step - 1) * (PART + 1)
                    assert (await session.patch(data[at : at + PART + 1])).status == 202
                case 3 | 4:
                    assert (
                        await session.close(digest_of(data), data[2 * PART + 2 :])
                    ).status == 201
                case _:
                    await _assert_stored(running, data, digest_of(data))
