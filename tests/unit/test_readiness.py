"""Whether the store answers: asked rarely, by one at a time, and never for long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from epoch.store import readiness
from epoch.store.base import ObjectInfo, Store, StoreError
from epoch.store.directory.store import DirectoryStore
from epoch.store.readiness import Readiness


class Moody:
    """A directory whose answers can be held back or replaced by an error."""

    def __init__(self, store: Store) -> None:
        self.asked = 0
        self.error: StoreError | None = None
        self.open = asyncio.Event()
        self.open.set()
        self._store = store

    async def head(self, key: str) -> ObjectInfo | None:
        self.asked += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return await self._store.head(key)


@pytest.fixture
async def moody(tmp_path: Path) -> Moody:
    store = DirectoryStore(tmp_path)
    await store.check()
    return Moody(store)


@pytest.fixture
def ready(moody: Moody) -> Readiness:
    return Readiness(cast(Store, moody))


def age(ready: Readiness, seconds: float) -> None:
    """Make its answer that much older."""
    ready._until -= seconds


async def test_many_questions_are_one(moody: Moody, ready: Readiness) -> None:
    moody.open.clear()
    questions = [asyncio.create_task(ready.holds()) for _ in range(100)]
    await asyncio.sleep(0.01)
    moody.open.set()
    assert await asyncio.gather(*questions) == [True] * 100
    assert await ready.holds()
    assert moody.asked == 1
    age(ready, readiness.KEEP - 1)
    assert await ready.holds()
    assert moody.asked == 1
    age(ready, 1)
    assert await ready.holds()
    assert moody.asked == 2


async def test_an_error_is_logged_once_and_so_is_its_end(
    moody: Moody,
    ready: Readiness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "epoch")
    moody.error = StoreError("it is down")
    for _ in range(3):
        assert not await ready.holds()
        age(ready, readiness.KEEP)
    moody.error = None
    for _ in range(3):
        assert await ready.holds()
        age(ready, readiness.KEEP)
    assert moody.asked == 6
    assert [record.getMessage() for record in caplog.records] == [
        'not ready reason="it is down"',
        "ready again",
    ]


async def test_silence_is_no_answer(
    moody: Moody, ready: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LIMIT", 0.05)
    moody.open.clear()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(ready.holds() for _ in range(10))) == [False] * 10
    assert moody.asked == 1


async def test_who_no_longer_wants_to_know_disturbs_nobody(moody: Moody, ready: Readiness) -> None:
    moody.open.clear()
    impatient, patient = (asyncio.create_task(ready.holds()) for _ in range(2))
    await asyncio.sleep(0.01)
    impatient.cancel()
    await asyncio.wait({impatient})
    moody.open.set()
    assert await patient
    assert moody.asked == 1


async def test_the_end_is_known_at_once(moody: Moody, ready: Readiness) -> None:
    moody.open.clear()
    waiting = asyncio.create_task(ready.holds())
    await asyncio.sleep(0.01)
    ready.end()
    assert not await ready.holds()
    await ready.close()
    assert not await waiting
    assert moody.asked == 1
