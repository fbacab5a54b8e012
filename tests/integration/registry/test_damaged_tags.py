"""Manifests that the store gives back wrongly, by tag: never passed on, and never believed when a
manifest is deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from epoch import layout
from epoch.errors import Code
from epoch.oci.digest import Digest
from epoch.registry.stored import StoredManifests
from epoch.store.base import ObjectInfo, Store
from epoch.store.directory.store import DirectoryStore
from epoch.store.s3.store import S3Store
from tests.integration.registry.conftest import House
from tests.tools.failing import Failing
from tests.tools.memory import MemoryStore

REPO = "team/app"
TAG = layout.manifest_by_tag(REPO, "v1")
FOREVER = 1_000_000

Change = Callable[[bytes], bytes]

DAMAGE: dict[str, Change] = {
    "half of it": lambda data: data[: len(data) // 2],
    "nothing": lambda data: b"",
    "one digit of a digest": lambda data: data.replace(b"sha256:4", b"sha256:5", 1),
    "one bit": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "a page of HTML": lambda data: b"<html><body>Please log in</body></html>",
    "an empty object": lambda data: b"{}",
}


class Lying(Failing):
    """A store that answers reads of one object with other bytes."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.change: Change = lambda data: data
        self.times = 0

    def lie(self, change: Change, times: int) -> None:
        """Change what is read of the tag so many times."""
        self.change, self.times = change, times
        self.calls.clear()

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """See `Store`."""
        self.calls.append(f"fetch {key}")
        found = await self.store.fetch(key, limit)
        if found is None or key != TAG or not self.times:
            return found
        self.times -= 1
        data = self.change(found[1])
        return replace(found[0], size=len(data)), data


class Encrypted(MemoryStore):
    """A bucket encrypted by SSE-KMS: an etag looks like an MD5 sum, and is none."""

    async def head(self, key: str) -> ObjectInfo | None:
        """See `Store`."""
        found = await super().head(key)
        return None if found is None else _encrypted(found)

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """See `Store`."""
        found = await super().fetch(key, limit)
        return None if found is None else (_encrypted(found[0]), found[1])


def _encrypted(info: ObjectInfo) -> ObjectInfo:
    return replace(info, etag=f'"{info.etag.strip(chr(34))[::-1]}"')


async def pushed(store: Store) -> tuple[House, Lying, bytes]:
    """A manifest under the tag; the handlers see the store through something that can lie."""
    lying = Lying(store)
    house = House(lying.as_store)
    data = await house.image(b"a layer")
    assert DAMAGE["one digit of a digest"](data) != data
    await house.push(REPO, data, "v1")
    return house, lying, data


@pytest.mark.parametrize("damage", list(DAMAGE))
async def test_damage_is_never_served(store: Store, damage: str) -> None:
    house, lying, data = await pushed(store)
    lying.lie(DAMAGE[damage], FOREVER)
    assert await house.refused(house.get(REPO, "v1")) == (500, Code.UNKNOWN)
    lying.lie(DAMAGE[damage], 0)
    assert house.body(await house.get(REPO, "v1")) == data
    await house.dashboard.close()


@pytest.mark.parametrize("damage", list(DAMAGE))
async def test_a_read_that_was_wrong_once_is_repeated(store: Store, damage: str) -> None:
    house, lying, data = await pushed(store)
    lying.lie(DAMAGE[damage], 1)
    response = await house.get(REPO, "v1")
    assert house.body(response) == data
    assert house.header(response, "Docker-Content-Digest") == str(Digest.of(data))
    await house.dashboard.close()


@pytest.mark.parametrize("damage", list(DAMAGE))
async def test_what_was_read_rightly_before_is_not_served_damaged(
    store: Store, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epoch.registry.stored._SETTLED", -10.0)  # so it is remembered at once
    house, lying, _ = await pushed(store)
    await house.get(REPO, "v1")
    lying.lie(lambda data: DAMAGE[damage](data).ljust(len(data)), FOREVER)
    assert await house.refused(house.get(REPO, "v1")) == (500, Code.UNKNOWN)
    await house.dashboard.close()


async def test_damage_in_a_directory_is_found_and_healed_by_a_push(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, fsync=False)
    await store.check()
    house = House(store)
    data = await house.image(b"a layer")
    await house.push(REPO, data, "v1")
    path = tmp_path / TAG
    path.write_bytes(DAMAGE["one bit"](data))
    assert await house.refused(house.get(REPO, "v1")) == (500, Code.UNKNOWN)
    await house.push(REPO, data, "v1")
    assert house.body(await house.get(REPO, "v1")) == data
    await house.dashboard.close()
    await store.close()


@pytest.mark.parametrize("kind", [MemoryStore, Encrypted])
async def test_another_manifest_is_not_served_for_the_tag(kind: type[MemoryStore]) -> None:
    """Its bytes have a copy by digest too, so only the etag tells, or that it is not so again."""
    house, lying, data = await pushed(kind())
    other = await house.image(b"another layer")
    await house.push(REPO, other, "v2")
    lying.lie(lambda data: other, 1)
    assert house.body(await house.get(REPO, "v1")) == data
    await house.dashboard.close()


async def test_an_encrypted_bucket_is_read_twice_and_then_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("epoch.registry.stored._SETTLED", -10.0)
    house, lying, data = await pushed(Encrypted())
    for reads in (2, 1, 1):
        lying.calls.clear()
        assert house.body(await house.get(REPO, "v1")) == data
        assert lying.calls.count(f"fetch {TAG}") == reads
    await house.dashboard.close()


async def test_a_tag_without_a_copy_is_served_only_by_its_md5(store: Store) -> None:
    """A deletion beside a push may have taken the copy in a bucket of the Go server."""
    house = House(store)
    data = await house.image(b"a layer")
    await store.put(TAG, data)
    if isinstance(store, S3Store):
        assert house.body(await house.get(REPO, "v1")) == data
        await store.put(TAG, b"no manifest")
    assert await house.refused(house.get(REPO, "v1")) == (500, Code.UNKNOWN)


class TestDeletion:
    """By digest, with all tags."""

    @pytest.mark.parametrize("damage", list(DAMAGE))
    async def test_a_tag_that_was_read_wrongly_goes_too(self, store: Store, damage: str) -> None:
        house, lying, data = await pushed(store)
        lying.lie(lambda data: DAMAGE[damage](data).ljust(len(data)), 1)
        await house.delete(REPO, Digest.of(data))
        assert lying.times == 0, "the tag was read"
        assert await house.keys("manifests/") == []
        await house.dashboard.close()

    async def test_another_manifest_is_not_believed_for_the_tag(self) -> None:
        house, lying, data = await pushed(Encrypted())
        other = await house.image(b"a light")
        assert len(other) == len(data)
        lying.lie(lambda data: other, 1)
        await house.delete(REPO, Digest.of(data))
        assert await house.keys("manifests/") == []
        await house.dashboard.close()

    async def test_tags_of_others_are_read_no_more_than_they_must(self, store: Store) -> None:
        house, lying, data = await pushed(store)
        count = 200
        for number in range(count):
            other = json.dumps(json.loads(data) | {"annotations": {"number": f"{number:06}"}})
            await house.push(REPO, other.encode(), f"other-{number}")
            last = other.encode()
        await house.push(REPO, last, "same")
        lying.calls.clear()
        await house.delete(REPO, Digest.of(last))
        tags = sum(call.startswith(f"fetch manifests/{REPO}/") for call in lying.calls)
        tags -= sum("/_digests/" in call for call in lying.calls)
        # MD5 sums tell most apart. In a directory each is read twice, to be sure, and once more
        # while pushes wait, where it has just been written.
        assert tags <= (2 * 2 if isinstance(store, S3Store) else 4 * (count + 2))
        assert len(await house.keys(f"manifests/{REPO}/")) == 2 * (count - 1) + 2
        await house.dashboard.close()


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epoch.registry.stored._SETTLED", -10.0)
    monkeypatch.setattr("epoch.registry.stored._REMEMBERED", 3)
    store = MemoryStore()
    house = House(store)
    data = await house.image(b"a layer")
    tags = [f"v{number}" for number in range(5)]
    await house.push(REPO, data, *tags)
    stored = StoredManifests(store)
    for tag in tags:
        assert await stored.by_tag(REPO, tag) == (data, Digest.of(data))
    assert len(stored._seen) == 3
    await house.dashboard.close()
