"""Manifests by tag and by digest: pushed, pulled, deleted."""

import json
from pathlib import Path
from typing import Any

import pytest

from epoch import layout
from epoch.errors import Code, RegistryError
from epoch.oci import media_types
from epoch.oci.digest import Digest

REPO = "team/app"


async def test_what_is_pushed_by_tag_is_pulled_exactly(house: Any) -> None:
    data = await house.image(b"layer", **{"org.unknown": "kept"}) + b"\n \n"
    digest = str(Digest.of(data))
    pushed = await house.put(
        REPO, "v1", data, content_type=f"{media_types.OCI_MANIFEST}; charset=utf-8"
    )
    assert pushed.status == 201
    assert house.header(pushed, "Docker-Content-Digest") == digest
    assert house.header(pushed, "Location") == f"/v2/{REPO}/manifests/{digest}"
    assert house.header(pushed, "OCI-Subject") is None
    for reference in ("v1", digest):
        pulled = await house.get(REPO, reference)
        assert (pulled.status, pulled.body) == (200, data)
        assert house.header(pulled, "Content-Type") == media_types.OCI_MANIFEST
        assert house.header(pulled, "Docker-Content-Digest") == digest
        assert house.header(pulled, "ETag") == f'"{digest}"'


async def test_the_bucket_is_laid_out_as_the_go_server_has_it(house: Any) -> None:
    data = await house.image()
    digest = await house.push(REPO, data, "v1")
    assert await house.keys("manifests/") == [
        f"manifests/{REPO}/_digests/sha256-{digest.hex}.json",
        f"manifests/{REPO}/v1.json",
    ]
    await house.dashboard.close()
    catalog = json.loads(await house.store.get("catalog.json", 10_000))
    assert catalog["repositories"][REPO]["tags"] == {"v1": f"manifests/{REPO}/v1.json"}
    await house.delete(REPO, digest)
    await house.dashboard.close()
    assert json.loads(await house.store.get("catalog.json", 10_000))["repositories"] == {}
    assert [key for key in await house.keys() if not key.startswith("blobs/")] == ["catalog.json"]


async def test_a_broken_catalog_json_is_left_alone(house: Any) -> None:
    await house.store.put("catalog.json", b"{broken")
    await house.push(REPO, await house.image(), "v1")
    await house.dashboard.close()
    assert await house.store.get("catalog.json", 10_000) == b"{broken"


@pytest.mark.parametrize("store", ["directory"], indirect=True)
async def test_a_push_does_not_need_catalog_json(house: Any, caplog: Any, tmp_path: Path) -> None:
    (tmp_path / "catalog.json").mkdir()
    await house.push(REPO, await house.image(), "v1")
    await house.dashboard.close()
    assert "catalog.json is not updated yet tags=1" in caplog.text
    assert (await house.get(REPO, "v1")).status == 200


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_tags_remember_the_digest_they_were_made_with(house: Any, algorithm: str) -> None:
    data = await house.image(b"layer", algorithm=algorithm)
    digest = Digest.of(data, algorithm)
    await house.push(REPO, await house.image(), "other")
    tags = [f"t{number}" for number in range(12)]
    pushed = await house.put(REPO, str(digest), data, *tags, "t0")
    assert [value for name, value in pushed.headers if name == "OCI-Tag"] == tags
    assert house.header(pushed, "Docker-Content-Digest") == str(digest)
    for reference in [*tags, str(digest)]:
        pulled = await house.get(REPO, reference)
        assert pulled.body == data
        assert house.header(pulled, "Docker-Content-Digest") == str(digest)
    # The same bytes, pushed again by tag alone, are a sha256 manifest.
    await house.put(REPO, "t0", data)
    pulled = await house.get(REPO, "t0")
    assert house.header(pulled, "Docker-Content-Digest") == str(Digest.of(data))
    await house.delete(REPO, digest)
    left, _ = await house.list_tags(REPO)
    assert left == (["other"] if algorithm == "sha256" else ["other", "t0"])
    assert [key for key in await house.keys("_tags/") if "sha512" in key] == []


async def test_a_tag_moves(house: Any) -> None:
    first, second = await house.image(b"1"), await house.image(b"2")
    await house.put(REPO, "v1", first)
    await house.put(REPO, "v1", second)
    assert (await house.get(REPO, "v1")).body == second
    assert (await house.get(REPO, Digest.of(first))).body == first


async def test_an_index_needs_its_children_in_the_same_repository(house: Any) -> None:
    child = await house.image(b"layer")
    index = house.index(child)
    await house.push("other", child)
    refused = await house.refused(house.put(REPO, "v1", index))
    assert refused == (404, Code.MANIFEST_BLOB_UNKNOWN)
    await house.push(REPO, child)
    assert (await house.put(REPO, "v1", index)).status == 201
    assert house.header(await house.get(REPO, "v1"), "Content-Type") == media_types.OCI_INDEX


async def test_missing_blobs_are_named(house: Any) -> None:
    layers = [house.descriptor(str(number).encode()) for number in range(3)]
    data = await house.image(layers=layers)
    with pytest.raises(RegistryError) as caught:
        await house.put(REPO, "v1", data)
    assert caught.value.code is Code.MANIFEST_BLOB_UNKNOWN
    assert caught.value.detail == [{"digest": layer["digest"]} for layer in layers]
    assert await house.keys("manifests/") == []


async def test_refused_pushes_leave_nothing(house: Any) -> None:
    good = await house.image(b"layer")
    digest = str(Digest.of(good))

    async def refused(reference: str, data: bytes, *tags: str, **headers: str) -> Any:
        return await house.refused(house.put(REPO, reference, data, *tags, **headers))

    assert await refused(digest, good + b"  ") == (400, Code.DIGEST_INVALID)
    assert await refused("sha256:baddigeststring", good) == (400, Code.DIGEST_INVALID)
    assert await refused("v1", b"not json") == (400, Code.MANIFEST_INVALID)
    assert await refused("v1", good, content_type=media_types.OCI_INDEX) == (
        400,
        Code.MANIFEST_INVALID,
    )
    assert await refused("-bad", good) == (400, Code.MANIFEST_INVALID)
    assert await refused(digest, good, "ok", "not ok") == (400, Code.MANIFEST_INVALID)
    assert await refused("v1", b" " * 4097) == (413, Code.SIZE_INVALID)
    assert await house.refused(house.put("Bad", "v1", good)) == (400, Code.NAME_INVALID)
    assert [key for key in await house.keys() if not key.startswith("blobs/")] == []


async def test_what_is_not_there(house: Any) -> None:
    absent = Digest.of(b"absent")
    assert await house.refused(house.get(REPO, "v1")) == (404, Code.NAME_UNKNOWN)
    assert await house.refused(house.get(REPO, absent)) == (404, Code.NAME_UNKNOWN)
    await house.push(f"{REPO}/nested", await house.image(), "v1")
    assert await house.refused(house.get(REPO, "v1")) == (404, Code.NAME_UNKNOWN)
    await house.push(REPO, await house.image())
    for reference in ("v1", "-bad", "a b", str(absent)):
        assert await house.refused(house.get(REPO, reference)) == (404, Code.MANIFEST_UNKNOWN)
        assert await house.refused(house.delete(REPO, reference)) == (404, Code.MANIFEST_UNKNOWN)
    for call in (house.get, house.delete):
        assert await house.refused(call(REPO, "sha256:x")) == (400, Code.DIGEST_INVALID)


async def test_deleting_a_manifest_deletes_its_tags_and_no_other(house: Any) -> None:
    one, two = await house.image(b"1"), await house.image(b"2")
    assert len(one) == len(two)
    digest = await house.push(REPO, one, "a", "b")
    await house.push(REPO, two, "c")
    await house.push(f"{REPO}/nested", one, "a")
    assert (await house.delete(REPO, "b")).status == 202
    assert (await house.get(REPO, digest)).body == one
    assert (await house.delete(REPO, digest)).status == 202
    assert (await house.list_tags(REPO))[0] == ["c"]
    assert await house.refused(house.get(REPO, digest)) == (404, Code.MANIFEST_UNKNOWN)
    assert (await house.get(f"{REPO}/nested", "a")).body == one
    assert (await house.put(REPO, "a", one)).status == 201


async def test_manifests_of_the_go_server_are_served(house: Any) -> None:
    # Any JSON, no object of ours beside it.
    data = b'{"anything": [1, 2]}'
    await house.store.put(layout.manifest_by_digest(REPO, Digest.of(data)), data)
    await house.store.put(layout.manifest_by_tag(REPO, "v1"), data)
    pulled = await house.get(REPO, "v1")
    assert house.header(pulled, "Content-Type") == media_types.OCI_MANIFEST
    assert (await house.list_tags(REPO))[0] == ["v1"]
    assert (await house.list_catalog())[0] == [REPO]


async def test_a_damaged_manifest_is_not_served_by_digest(house: Any) -> None:
    digest = await house.push(REPO, await house.image())
    await house.store.put(layout.manifest_by_digest(REPO, digest), b"{}")
    assert await house.refused(house.get(REPO, digest)) == (500, Code.UNKNOWN)
