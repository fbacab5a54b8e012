"""Which blobs belong to a repository, and what it costs to find out."""

from __future__ import annotations

import asyncio

import pytest

from epoch.digest import Digest
from epoch.registry import membership
from epoch.registry.membership import Membership
from epoch.store.base import Store
from tests.integration.registry.conftest import House
from tests.tools.aged import Aged

REPO = "team/app"


class Counting(Aged):
    """Counts what is read."""

    gets = 0

    async def get(self, key: str, limit: int) -> bytes | None:
        self.gets += 1
        return await super().get(key, limit)


@pytest.fixture
def counting(store: Store) -> Counting:
    return Counting(store)


async def fill(house: House, count: int) -> None:
    for number in range(count):
        await house.push(REPO, await house.image(b"layer %d" % number), f"v{number}")


async def test_each_manifest_is_read_once(counting: Counting) -> None:
    house = House(counting)
    await fill(house, 20)
    foreign = [await house.push_blob(b"foreign %d" % number) for number in range(5)]
    found = Membership(counting)
    counting.gets = 0
    answers = await asyncio.gather(*[found.has(REPO, digest) for digest in foreign])
    assert answers == [False] * 5
    assert counting.gets == 40  # each by its digest and by its tag
    assert await found.strangers(REPO, [*foreign, Digest.of(b"layer 7")]) == set(foreign)
    assert counting.gets == 40
    await house.push(REPO, await house.image(b"foreign 0"), "v7")
    counting.gets = 0
    assert await found.has(REPO, foreign[0])
    assert not await found.has(REPO, foreign[1])
    assert not await found.has("team", foreign[0])
    assert not await found.has(REPO + "/nested", foreign[0])
    assert counting.gets == 2  # also the tag that was overwritten


async def test_what_is_not_stored_costs_no_reading(counting: Counting) -> None:
    await fill(House(counting), 2)
    counting.gets = 0
    assert not await Membership(counting).has(REPO, Digest.of(b"nowhere"))
    assert counting.gets == 0


async def test_memory_is_bounded(counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "REMEMBERED", 10)
    house = House(counting)
    await fill(house, 20)
    foreign = await house.push_blob(b"foreign")
    found = Membership(counting)
    for _ in range(2):
        counting.gets = 0
        assert not await found.has(REPO, foreign)
        assert counting.gets == 40
    assert await found.has(REPO, Digest.of(b"layer 19"))
