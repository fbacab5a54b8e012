"""Which blobs belong to a repository, and what it costs to find out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from epoch.oci.digest import Digest
from epoch.registry import membership
from epoch.registry.membership import Membership
from epoch.store.base import ObjectInfo, Store
from tests.integration.registry.conftest import House
from tests.tools.aged import Aged

REPO = "team/app"


class Counting(Aged):
    """Counts what is read of manifests, and notes every call that reads."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.gets = 0
        self.reads: list[tuple[str, str]] = []

    async def head(self, key: str) -> ObjectInfo | None:
        self.reads.append(("head", key))
        return await super().head(key)

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        self.gets += 1
        self.reads.append(("get", key))
        return await super().fetch(key, limit)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        self.reads.append(("list", prefix))
        async for info in super().list(prefix, after):
            yield info

    async def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self.reads.append(("list_folder", prefix))
        async for info in super().list_folder(prefix):
            yield info


@pytest.fixture
def counting(store: Store) -> Counting:
    return Counting(store)


async def fill(house: House, count: int) -> None:
    for number in range(count):
        await house.push(REPO, await house.image(b"layer %d" % number), f"v{number}")


async def test_each_manifest_is_read_once(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "FRESH", 0.0)
    monkeypatch.setattr(membership, "FRESH_SHARE", 0.0)
    house = House(counting)
    await fill(house, 20)
    foreign = [await house.push_blob(b"foreign %d" % number) for number in range(5)]
    found = Membership(counting)
    counting.gets = 0
    answers = await asyncio.gather(*[found.has(REPO, digest) for digest in foreign])
    assert answers == [False] * 5
    assert counting.gets == 40  # each by its digest and by its tag
    assert await found.not_in_repository(REPO, [*foreign, Digest.of(b"layer 7")]) == set(foreign)
    assert counting.gets == 40
    await house.push(REPO, await house.image(b"foreign 0"), "v7")
    counting.gets = 0
    assert await found.has(REPO, foreign[0])
    assert not await found.has(REPO, foreign[1])
    assert not await found.has("team", foreign[0])
    assert not await found.has(REPO + "/nested", foreign[0])
    assert counting.gets == 2  # also the tag that was overwritten


@pytest.mark.parametrize("warm", [False, True])
async def test_what_is_stored_elsewhere_takes_the_same_reads_as_what_is_not(
    counting: Counting, warm: bool
) -> None:
    house = House(counting)
    await fill(house, 3)
    hidden = await house.push_blob(b"of a private repository")
    await house.push("private/app", await house.image(b"of a private repository"), "v1")
    answers, reads = [], []
    for digest in (hidden, Digest.of(b"nowhere")):
        found = Membership(counting)
        if warm:
            assert not await found.has(REPO, Digest.of(b"something else"))
        counting.reads.clear()
        answers.append(await found.has(REPO, digest))
        reads.append([(call, key.replace(digest.hex, "digest")) for call, key in counting.reads])
    assert answers == [False, False]
    assert sorted(reads[0]) == sorted(reads[1])
    assert len(reads[0]) == (1 if warm else 12)


async def test_many_questions_take_one_list(counting: Counting) -> None:
    house = House(counting)
    await fill(house, 3)
    found = Membership(counting)
    counting.reads.clear()
    digests = [Digest.of(b"nowhere %d" % number) for number in range(50)]
    assert not any(await asyncio.gather(*[found.has(REPO, digest) for digest in digests]))
    assert [call for call, _ in counting.reads].count("list") == 1


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
        assert not await found.has("another", foreign)
