"""A bucket as the Go server of the same name has left it: served as it is, and left as it reads it.

Keys and their meaning: `objectstore/` and `registry/` of github.com/cocoonstack/epoch.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from epoch.garbage.collector import Collector
from epoch.garbage.pins import Times
from epoch.oci import media_types
from epoch.oci.digest import Digest
from epoch.store.base import Store
from tests.integration.registry.conftest import House, store
from tests.tools.aged import Aged

DAY = 24 * 3600.0
NAMES = ("app", "team/app", "team/app/nested", "vm")
TIME = "2025-03-01T10:11:12.123456789+08:00"

__all__ = ["store"]


@dataclass
class GoBucket:
    """Writes as that server does."""

    store: Store
    tags: dict[str, dict[str, bytes]] = field(default_factory=dict)

    async def blob(self, content: bytes) -> dict[str, Any]:
        digest = Digest.of(content)
        await self.store.put(f"blobs/sha256/{digest.hex}", content)
        return {
            "mediaType": "application/octet-stream",
            "digest": str(digest),
            "size": len(content),
        }

    async def push(self, name: str, tag: str, *layers: bytes, **more: Any) -> bytes:
        config = await self.blob(b'{"schemaVersion":"v1"}')
        value = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": config,
            "layers": [await self.blob(layer) for layer in layers],
            **more,
        }
        data = json.dumps(value, indent=2).encode()
        await self.manifest(name, tag, data)
        return data

    async def manifest(self, name: str, tag: str, data: bytes) -> None:
        await self.store.put(f"manifests/{name}/_digests/sha256-{Digest.of(data).hex}.json", data)
        await self.store.put(f"manifests/{name}/{tag}.json", data)
        self.tags.setdefault(name, {})[tag] = data

    async def catalog(self, tags: dict[str, dict[str, bytes]] | None = None) -> None:
        repositories = {
            name: {
                "tags": {tag: f"manifests/{name}/{tag}.json" for tag in of},
                "updatedAt": TIME,
            }
            for name, of in (self.tags if tags is None else tags).items()
        }
        value = {"repositories": repositories, "updatedAt": TIME}
        await self.store.put("catalog.json", json.dumps(value, indent=2, sort_keys=True).encode())

    async def list_tags(self, name: str) -> list[str]:
        """What its ListTags gives."""
        prefix = f"manifests/{name}/"
        found = []
        async for info in self.store.list(prefix):
            tag = info.key.removeprefix(prefix).removesuffix(".json")
            if info.key.endswith(".json") and tag and "/" not in tag:
                found.append(tag)
        return found

    async def read(self, name: str, reference: str) -> bytes | None:
        """What it serves for a tag, or for a digest."""
        if reference.startswith("sha256:"):
            reference = f"_digests/{reference.replace(':', '-')}"
        return await self.store.get(f"manifests/{name}/{reference}.json", 50 << 20)

    async def read_catalog(self) -> dict[str, list[str]]:
        """What its `_catalog` and its dashboard are made of, which fails where it would."""
        data = await self.store.get("catalog.json", 1 << 20)
        if data is None:
            return {}
        catalog = json.loads(data)
        assert datetime.fromisoformat(catalog["updatedAt"]).tzinfo is not None
        for name, entry in catalog["repositories"].items():
            assert datetime.fromisoformat(entry["updatedAt"]).tzinfo is not None
            for tag, key in entry["tags"].items():
                assert key == f"manifests/{name}/{tag}.json"
        return {name: sorted(entry["tags"]) for name, entry in catalog["repositories"].items()}


@pytest.fixture
def aged(store: Store) -> Aged:
    return Aged(store)


@pytest.fixture
async def go(aged: Aged) -> GoBucket:
    """Four repositories, some nested, several tags each, one layer shared by all."""
    go = GoBucket(aged)
    for name in NAMES:
        for tag in ("v1", "v1.0", "v1-rc", "latest"):
            await go.push(name, tag, b"shared", f"{name}:{tag}".encode())
    return go


@pytest.fixture(params=["present", "stale", "absent"])
async def bucket(go: GoBucket, request: pytest.FixtureRequest) -> GoBucket:
    if request.param == "present":
        await go.catalog()
    elif request.param == "stale":
        await go.catalog({"app": {"v0": b""}, "gone": {"latest": b""}})
    return go


@pytest.fixture
async def epoch(bucket: GoBucket) -> AsyncIterator[House]:
    house = House(bucket.store)
    yield house
    await house.dashboard.close()


async def collect(store: Aged) -> int:
    """Collect garbage when all of it is old; how many blobs went."""
    store.older(2 * DAY, *[info.key async for info in store.inner.list("")])
    times = Times(view=0, announce=0)
    collector = Collector(store, min_age=DAY, session_lifetime=DAY, times=times)
    return (await collector.collect()).removed_blobs


async def pull_all(house: House, tags: dict[str, dict[str, bytes]]) -> None:
    """Every tag and digest, with all of its blobs."""
    for name, of in tags.items():
        assert await house.list_tags(name) == (sorted(of), None)
        for tag, data in of.items():
            for reference in (tag, Digest.of(data)):
                response = await house.get(name, reference)
                assert house.body(response) == data
                assert house.header(response, "Docker-Content-Digest") == str(Digest.of(data))
            value = json.loads(data)
            for entry in [value["config"], *value["layers"]]:
                request = house.request()
                blob = await house.read(await house.blobs.get(request, name, entry["digest"]))
                assert str(Digest.of(blob)) == entry["digest"]


async def test_it_is_served_as_it_is(bucket: GoBucket, epoch: House, aged: Aged) -> None:
    before = {info.key: info async for info in aged.inner.list("")}
    await pull_all(epoch, bucket.tags)
    assert await epoch.list_catalog() == (sorted(NAMES), None)
    after = {info.key: info async for info in aged.inner.list("")}
    assert {key: after[key] for key in before} == before
    assert all(not key.startswith(("manifests/", "blobs/")) for key in after.keys() - before)


async def test_referrers_are_found(bucket: GoBucket, epoch: House) -> None:
    subject = bucket.tags["team/app"]["v1"]
    described = epoch.descriptor(subject)
    referrer = await bucket.push("team/app", "sig", b"signature", subject=described)
    await bucket.push("team/app/nested", "sig", b"of another", subject=described)
    listed, _ = await epoch.list_referrers("team/app", Digest.of(subject))
    assert [entry["digest"] for entry in listed] == [str(Digest.of(referrer))]
    # They are no tags to either server.
    assert "sig" in await bucket.list_tags("team/app")
    assert len(await bucket.list_tags("team/app")) == 5


async def test_collection_removes_only_what_nothing_names(
    bucket: GoBucket, epoch: House, aged: Aged
) -> None:
    orphan = await bucket.blob(b"left behind by a deletion")
    assert await collect(aged) == 1
    assert await aged.head(f"blobs/sha256/{orphan['digest'].partition(':')[2]}") is None
    await pull_all(epoch, bucket.tags)
    # Tags without digest copies, and digest copies without tags, name what they name.
    for name in NAMES:
        data = bucket.tags[name]["v1"]
        await aged.delete(f"manifests/{name}/_digests/sha256-{Digest.of(data).hex}.json")
        await aged.delete(f"manifests/{name}/latest.json")
    assert await collect(aged) == 0
    for name in NAMES:
        await aged.delete(f"manifests/{name}/v1.json")
    assert await collect(aged) == len(NAMES)


async def test_what_is_pushed_is_read_by_the_go_server(bucket: GoBucket, epoch: House) -> None:
    data = await epoch.image(b"new", annotations={"of": "epoch"})
    await epoch.push("team/app", data, "v1", "v2")
    long = await epoch.image(b"long", algorithm="sha512")
    await epoch.put("team/app", f"sha512:{Digest.of(long, 'sha512').hex}", long)
    referrer = await epoch.image(b"sig", subject=epoch.descriptor(data))
    await epoch.push("team/app", referrer)
    await epoch.list_referrers("team/app", Digest.of(data))
    await epoch.push("new/one", data, "first")
    await epoch.dashboard.close()
    assert sorted(await bucket.list_tags("team/app")) == ["latest", "v1", "v1-rc", "v1.0", "v2"]
    assert await bucket.list_tags("new/one") == ["first"]
    for reference in ("v1", "v2", str(Digest.of(data))):
        assert await bucket.read("team/app", reference) == data
    assert await bucket.read("team/app", str(Digest.of(referrer))) == referrer
    catalog = await bucket.read_catalog()
    assert catalog["new/one"] == ["first"]
    assert {"v1", "v2"} <= set(catalog["team/app"])
    for name in NAMES:
        assert sorted(await bucket.list_tags(name)) == (await epoch.list_tags(name))[0]


async def test_what_is_deleted_is_gone_for_the_go_server(
    bucket: GoBucket, epoch: House, aged: Aged
) -> None:
    by_digest, by_tag = bucket.tags["app"]["v1"], bucket.tags["team/app"]
    await epoch.push("app", by_digest, "again")
    assert (await epoch.delete("app", Digest.of(by_digest))).status == 202
    for tag in by_tag:
        assert (await epoch.delete("team/app", tag)).status == 202
    await epoch.dashboard.close()
    assert sorted(await bucket.list_tags("app")) == ["latest", "v1-rc", "v1.0"]
    assert await bucket.read("app", str(Digest.of(by_digest))) is None
    assert await bucket.list_tags("team/app") == []
    assert sorted(await bucket.list_tags("team/app/nested")) == sorted(by_tag)
    catalog = await bucket.read_catalog()
    assert "team/app" not in catalog
    assert not {"v1", "again"} & set(catalog.get("app", []))
    # Its manifests can still be pulled by digest, so that their blobs are needed.
    assert await collect(aged) == 1
    for data in by_tag.values():
        assert await bucket.read("team/app", str(Digest.of(data))) == data
        assert epoch.body(await epoch.get("team/app", Digest.of(data))) == data


async def test_repositories_that_the_go_server_adds_later_are_found_by_the_collection(
    bucket: GoBucket, epoch: House, aged: Aged
) -> None:
    assert await epoch.list_catalog() == (sorted(NAMES), None)
    await bucket.push("later", "v1", b"x")
    await collect(aged)
    assert await epoch.list_catalog() == (sorted([*NAMES, "later"]), None)
