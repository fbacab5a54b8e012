"""What an upload has in the store is damaged between two requests: no blob is made of it."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from epoch.config import S3Settings
from epoch.store.base import Store
from tests.tools.client import Answer, digest_of, get_blob, has_blob
from tests.tools.failing import Failing
from tests.tools.fixtures import open_place
from tests.tools.running import PART, serving
from tests.tools.sessions import Session, leftovers, push

SHAPES = {
    "small": [3000, 3000, 3000],
    "small, then a part": [3000, PART],
    "a part and a rest": [PART + 77, 3000],
    "two equal ones": [100_000, 100_000],
}
BYTES = random.Random(5).randbytes(2 * PART + 5000)
WHOLE = 3 * PART
"""Bytes above those of any object here."""


@pytest.fixture
async def store(place: S3Settings | Path) -> AsyncIterator[Failing]:
    """The store of all servers of a test; closed at its end."""
    failing = Failing(open_place(place))
    await failing.store.check()
    yield failing
    await failing.store.close()


async def _flip(store: Store, key: str) -> None:
    """One bit in the middle of an object."""
    data = bytearray(await store.get(key, WHOLE) or b"")
    data[len(data) // 2] ^= 1
    await store.put(key, data)


async def _found(store: Store) -> list[str]:
    """The keys of what uploads have in the store and that holds a byte."""
    return [info.key async for info in store.list("_uploads/") if info.size]


async def _forget(store: Store) -> None:
    for prefix in ("_uploads/", "blobs/"):
        for key in [info.key async for info in store.list(prefix)]:
            await store.delete(key)
    async for upload, _ in store.list_multiparts("_uploads/"):
        await store.abort_multipart(upload)


class _Push:
    """One upload, each request of it to a server that was just started."""

    def __init__(self, store: Failing, chunks: Sequence[bytes], *, last_in_put: bool) -> None:
        self._store = store
        self._digest = digest_of(b"".join(chunks))
        self._patches = list(chunks[:-1] if last_in_put else chunks)
        self._last = chunks[-1] if last_in_put else b""
        self._location = ""

    async def step(self) -> Answer | None:
        """The next request; None where it was the begin of the session."""
        async with serving(self._store.as_store, leaves=True) as running:
            if not self._location:
                self._location = (await Session.begin(running.port)).location
                return None
            session = Session(running.port, self._location, "a/b")
            if self._patches:
                return await session.patch(self._patches.pop(0))
            return await session.close(self._digest, self._last)


async def _push_damaged(
    store: Failing, chunks: Sequence[bytes], damaged_step: int, number: int, *, last_in_put: bool
) -> tuple[str, Answer] | None:
    """Damage the `number`-th object after that step; its key, and the last answer. None: there
    are not so many."""
    data = b"".join(chunks)
    await _forget(store.store)
    upload = _Push(store, chunks, last_in_put=last_in_put)
    key = ""
    for step in itertools.count():
        answer = await upload.step()
        if answer is not None and answer.status != 202:
            break
        if step == damaged_step:
            found = await _found(store.store)
            if number >= len(found):
                return None
            key = found[number]
            await _flip(store.store, key)
    assert answer is not None
    await _assert_honest(store, data, answer)
    return key, answer


async def _assert_honest(store: Failing, data: bytes, answer: Answer) -> None:
    """The blob is right, or there is none and the upload has to begin again."""
    digest = digest_of(data)
    async with serving(store.as_store, leaves=True) as running:
        if answer.status == 201:
            assert (await get_blob(running.port, digest)).digest == digest
        else:
            assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN")
            assert not await has_blob(running.port, digest)
        if not await store.store.get("_uploads/secret", 32):
            return
        assert (await push(running.port, data)).status == 201
        assert (await get_blob(running.port, digest)).digest == digest


@pytest.mark.parametrize("last_in_put", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_flipped_bit_never_becomes_a_blob(
    store: Failing, shape: str, last_in_put: bool
) -> None:
    """In each object in turn, after each request in turn."""
    at = itertools.accumulate([0, *SHAPES[shape]])
    chunks = [BYTES[first : first + size] for first, size in zip(at, SHAPES[shape], strict=False)]
    refused = 0
    for step in range(1, len(chunks) + (not last_in_put)):
        for number in itertools.count():
            found = await _push_damaged(store, chunks, step, number, last_in_put=last_in_put)
            if found is None:
                assert number >= 2  # the secret and a generation at least
                break
            key, answer = found
            if "/state/" in key or key.endswith("/secret"):
                assert answer.status == 404, key
            refused += answer.status == 404
            if "/tail/" in key and answer.status == 404:
                assert all("/state/" in left for left in await leftovers(store.store)), key
    assert refused >= 2 * (len(chunks) - last_in_put)


@pytest.mark.parametrize(
    ("call", "nth", "after"),
    [
        ("complete_multipart", 1, True),
        ("move", 1, False),
        ("move", 1, True),
        ("put_new", 2, False),
        ("put_new", 2, True),
    ],
)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_what_a_closing_put_left_is_not_trusted(
    store: Failing,
    call: str,
    nth: int,
    after: bool,
    algorithm: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store breaks off while the closing PUT is at work; what lies there by then is damaged;
    the closing PUT comes once more."""
    monkeypatch.setattr("epoch.upload.session_store.CLOSING_PAUSE", 0.001)
    data = BYTES[: PART + 77]
    digest = digest_of(data, algorithm)
    for number in itertools.count():
        await _forget(store.store)
        async with serving(store.as_store, leaves=True) as running:
            session = await Session.begin(running.port)
            assert (await session.patch(data)).status == 202
            await running.until_idle()
            store.fail(nth, call, after=after, for_good=True)
            await session.close(digest)
            await running.until_idle()
        store.fail(0)
        found = [key for key in await _found(store.store) if not key.endswith("/secret")]
        if number >= len(found):
            break
        await _flip(store.store, found[number])
        async with serving(store.as_store, leaves=True) as running:
            session = Session(running.port, session.location, "a/b")
            answer = await session.close(digest)
            assert answer.status in (201, 404), (answer, found[number])
            if answer.status == 201:
                assert (await get_blob(running.port, digest)).digest == digest_of(data)
            assert (await push(running.port, data, digest)).status == 201
            assert (await get_blob(running.port, digest)).digest == digest_of(data)


async def test_an_object_cut_short_or_gone(store: Failing) -> None:
    data = BYTES[:6000]
    for damage in ("cut", "longer", "empty", "gone"):
        for kind in ("/state/", "/tail/"):
            await _forget(store.store)
            async with serving(store.as_store, leaves=True) as running:
                session = await Session.begin(running.port)
                assert (await session.patch(data[:3000])).status == 202
                await running.until_idle()
                (key,) = [key for key in await _found(store.store) if kind in key]
                content = await store.store.get(key, WHOLE) or b""
                if damage == "gone":
                    await store.store.delete(key)
                else:
                    damaged = {"cut": content[:-1], "longer": content + b"!", "empty": b""}
                    await store.store.put(key, damaged[damage])
                answer = await session.close(digest_of(data), data[3000:], "3000-5999")
                if (kind, damage) == ("/state/", "gone"):  # as if nothing had come
                    assert answer.status == 416
                else:
                    assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN"), (kind, damage)
                    assert (await session.status()).status == 404
                assert not await has_blob(running.port, digest_of(data))


async def test_a_session_of_an_older_version_is_unknown(store: Failing) -> None:
    """Without a checksum."""
    async with serving(store.as_store, leaves=True) as running:
        session = await Session.begin(running.port)
        assert (await session.patch(b"some")).status == 202
        (key,) = [key for key in await _found(store.store) if "/state/" in key]
        state = await store.store.get(key, WHOLE) or b""
        await store.store.put(key, state.partition(b"\n")[0])
        for answer in (
            await session.status(),
            await session.patch(b"more"),
            await session.close(digest_of(b"some")),
            await session.cancel(),
        ):
            assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN")
