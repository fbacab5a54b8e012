"""What a manifest may name, by the media types of its descriptors; answers to If-None-Match."""

from __future__ import annotations

import json
from typing import Any

from epoch import layout
from epoch.errors import Code
from epoch.garbage.collector import Collector
from epoch.oci import media_types
from epoch.oci.digest import Digest
from epoch.registry.manifests import Manifests
from tests.integration.registry.conftest import LAYER_TYPE, House
from tests.tools.aged import Aged

REPO = "team/cache"
CACHE_TYPE = "application/vnd.buildkit.cacheconfig.v0"
DAY = 24 * 3600.0


def cache(house: House, *layers: bytes) -> bytes:
    """The index that BuildKit's `--cache-to type=registry,image-manifest=false` pushes."""
    children = [house.descriptor(layer, LAYER_TYPE) for layer in layers]
    children.append(house.descriptor(b"config", CACHE_TYPE))
    value = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": children}
    return json.dumps(value).encode()


async def test_an_index_of_blobs_is_accepted(house: House) -> None:
    data = cache(house, b"layer 1", b"layer 2")
    missing = await house.refused(house.put(REPO, "cache", data))
    assert missing == (404, Code.MANIFEST_BLOB_UNKNOWN)
    for blob in (b"layer 1", b"layer 2", b"config"):
        await house.push_blob(blob)
    assert (await house.put(REPO, "cache", data)).status == 201
    pulled = await house.get(REPO, "cache")
    assert pulled.body == data
    assert house.header(pulled, "Content-Type") == media_types.OCI_INDEX


async def test_a_child_of_an_unknown_media_type_may_be_a_manifest(house: House) -> None:
    child = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.example+json"}).encode()
    descriptor = house.descriptor(child, "application/vnd.example+json")
    value = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [descriptor]}
    index = json.dumps(value).encode()
    refused = await house.refused(house.put(REPO, "v1", index))
    assert refused == (404, Code.MANIFEST_BLOB_UNKNOWN)
    await house.push(REPO, child)
    assert (await house.put(REPO, "v1", index)).status == 201


async def test_an_image_in_an_index_must_be_a_manifest(house: House) -> None:
    child = await house.image(b"layer")
    await house.push_blob(child)
    refused = await house.refused(house.put(REPO, "v1", house.index(child)))
    assert refused == (404, Code.MANIFEST_BLOB_UNKNOWN)


async def test_blobs_of_an_index_belong_to_its_repository(house: House) -> None:
    for blob in (b"layer", b"config"):
        await house.push_blob(blob)
    await house.put(REPO, "cache", cache(house, b"layer"))
    assert await house.membership.has(REPO, Digest.of(b"layer"))
    assert not await house.membership.has("other", Digest.of(b"layer"))


async def test_blobs_of_an_index_are_no_garbage(house: House) -> None:
    for blob in (b"layer", b"config", b"nobody names this"):
        await house.push_blob(blob)
    await house.put(REPO, "cache", cache(house, b"layer"))
    aged = Aged(house.store)
    aged.older(10 * DAY, *await house.keys("blobs/"))
    report = await Collector(aged, min_age=DAY, session_lifetime=DAY).collect()
    assert report.removed_blobs == 1
    left = {layout.blob(Digest.of(blob)) for blob in (b"layer", b"config")}
    assert set(await house.keys("blobs/")) == left


async def test_a_sparse_index_is_accepted_where_it_is_allowed(house: Any) -> None:
    here, elsewhere = await house.image(b"amd64"), await house.image(b"arm64")
    await house.push(REPO, here)
    index = house.index(here, elsewhere)
    refused = await house.refused(house.put(REPO, "v1", index))
    assert refused == (404, Code.MANIFEST_BLOB_UNKNOWN)
    store, referrers, catalog = house.store, house.referrers, house.catalog
    house.manifests = Manifests(store, referrers, catalog, house.dashboard, 4096, sparse=True)
    assert (await house.put(REPO, "v1", index)).status == 201
    # What must be a blob must still be here.
    image = await house.image(layers=[house.descriptor(b"missing", LAYER_TYPE)])
    refused = await house.refused(house.put(REPO, "v2", image))
    assert refused == (404, Code.MANIFEST_BLOB_UNKNOWN)


async def test_a_client_that_has_the_manifest_gets_no_body(house: House) -> None:
    data = await house.image(b"layer")
    digest = await house.push(REPO, data, "v1")
    for reference in ("v1", str(digest)):
        first = await house.get(REPO, reference)
        etag = house.header(first, "ETag")
        assert etag is not None
        again = await house.manifests.get(house.request(if_none_match=etag), REPO, reference)
        assert (again.status, again.body) == (304, b"")
        assert house.header(again, "ETag") == etag
        assert house.header(again, "Docker-Content-Digest") == str(digest)
        other = house.request(if_none_match='"sha256:00"')
        assert (await house.manifests.get(other, REPO, reference)).body == data
