"""Tags, referrers, the catalog."""

import json
from typing import Any

import pytest

from epoch import layout
from epoch.errors import Code
from epoch.oci import media_types
from epoch.oci.digest import Digest
from epoch.registry import referrers

REPO = "team/app"


async def test_tags_are_sorted_bytewise_and_paged(house: Any) -> None:
    tags = ["V2", "_x", "latest", "v1", "v1-rc", "v1.0", "v1.0-rc", "v10", "v1_"]
    assert tags == sorted(tags)
    await house.push(REPO, await house.image(), *reversed(tags))
    assert await house.list_tags(REPO) == (tags, None)
    seen: list[str] = []
    query = [("n", "2")]
    while True:
        shown, link = await house.list_tags(REPO, *query)
        seen += shown
        if link is None:
            break
        assert len(shown) == 2
        assert link == f'</v2/{REPO}/tags/list?n=2&last={shown[-1]}>; rel="next"'
        query = [("n", "2"), ("last", shown[-1])]
    assert seen == tags
    assert await house.list_tags(REPO, ("n", "0")) == ([], None)
    assert await house.list_tags(REPO, ("n", "9" * 5000)) == (tags, None)
    assert await house.list_tags(REPO, ("n", "9")) == (tags, None)
    assert await house.list_tags(REPO, ("last", "v1-")) == (tags[4:], None)
    assert await house.list_tags(REPO, ("last", "zzz")) == ([], None)
    for bad in ("-1", "x", "", "1.5", "+1", "\u0661"):
        answer = house.tags.get(house.request(query=[("n", bad)]), REPO)
        assert await house.refused(answer) == (400, Code.UNSUPPORTED)


@pytest.mark.foreign_keys
async def test_what_is_not_a_tag_is_not_listed(house: Any) -> None:
    data = await house.image()
    await house.push(REPO, data, "v1", "_digests0", "zz")
    for number in range(7):
        await house.push(f"{REPO}/nested", data, f"n{number}")
        await house.push(REPO, await house.image(bytes([number])))
    for extra in ("no-suffix", ".json", "a b.json", "sub/x.json"):
        await house.store.put(f"{layout.manifests(REPO)}{extra}", data)
    assert (await house.list_tags(REPO))[0] == ["_digests0", "v1", "zz"]


async def test_tags_of_unknown_and_of_untagged_repositories(house: Any) -> None:
    answer = house.tags.get(house.request(), REPO)
    assert await house.refused(answer) == (404, Code.NAME_UNKNOWN)
    await house.push(REPO, await house.image())
    assert await house.list_tags(REPO) == ([], None)


async def test_referrers_are_indexed_and_filtered(house: Any) -> None:
    data = await house.image(b"subject")
    digest = await house.push(REPO, data, "v1")
    subject = house.descriptor(data)
    one = await house.image(b"1", subject=subject, artifactType="application/one+json")
    two = await house.image(b"2", subject=subject, annotations={"clé": "\U0001f600"})
    three = house.index(subject=subject)
    for referrer in (one, two, three):
        pushed = await house.put(REPO, str(Digest.of(referrer)), referrer)
        assert house.header(pushed, "OCI-Subject") == str(digest)
    found, response = await house.list_referrers(REPO, digest)
    assert house.header(response, "OCI-Filters-Applied") is None
    config_type = json.loads(two)["config"]["mediaType"]
    expected = [
        house.descriptor(one) | {"artifactType": "application/one+json"},
        house.descriptor(two) | {"artifactType": config_type, "annotations": {"clé": "\U0001f600"}},
        house.descriptor(three, media_types.OCI_INDEX),
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
    found, response = await house.list_referrers(
        REPO, digest, ("artifactType", "application/one+json")
    )
    assert found == expected[:1]
    assert house.header(response, "OCI-Filters-Applied") == "artifactType"
    await house.delete(REPO, Digest.of(one))
    found, _ = await house.list_referrers(REPO, digest)
    assert sorted(found, key=str) == sorted(expected[1:], key=str)


async def test_referrers_of_what_is_unknown(house: Any) -> None:
    for digest in (Digest.of(b"x"), Digest.of(b"x", "sha512")):
        assert (await house.list_referrers("never/pushed", digest))[0] == []
    answer = house.referrers.get(house.request(), REPO, "sha256:bad")
    assert await house.refused(answer) == (400, Code.DIGEST_INVALID)
    answer = house.referrers.get(
        house.request(query=[("last", "\udcff/../x")]), REPO, str(Digest.of(b"x"))
    )
    assert await house.refused(answer) == (400, Code.UNSUPPORTED)
    # Reading leaves nothing behind.
    assert await house.keys() == []


async def test_referrers_of_a_sha512_subject_that_is_missing(house: Any) -> None:
    digest = Digest.of(b"missing", "sha512")
    data = await house.image(subject=house.descriptor(b"missing", digest=digest))
    await house.push(REPO, data)
    assert [entry["digest"] for entry in (await house.list_referrers(REPO, digest))[0]] == [
        str(Digest.of(data))
    ]


async def test_referrers_are_derived_from_manifests_that_were_there_before(house: Any) -> None:
    subject = house.descriptor(b"subject")
    old = [await house.image(bytes([number]), subject=subject) for number in range(20)]
    for data in old:
        await house.store.put(layout.manifest_by_digest(REPO, Digest.of(data)), data)
    new = await house.image(b"new", subject=subject)
    await house.push(REPO, new)
    found, _ = await house.list_referrers(REPO, subject["digest"])
    assert {entry["digest"] for entry in found} == {str(Digest.of(data)) for data in [*old, new]}
    # Deleted by a server that knows nothing of referrers.
    await house.store.delete(layout.manifest_by_digest(REPO, Digest.of(new)))
    found, _ = await house.list_referrers(REPO, subject["digest"])
    assert {entry["digest"] for entry in found} == {str(Digest.of(data)) for data in old}


async def test_the_referrers_that_clients_listed_under_a_tag_are_merged(house: Any) -> None:
    data = await house.image(b"subject")
    digest = await house.push(REPO, data)
    known = await house.image(b"1", subject=house.descriptor(data))
    unknown = await house.image(b"2")
    for manifest in (known, unknown):
        await house.push(REPO, manifest)
    fallback = json.loads(house.index(known, unknown))
    fallback["manifests"] += [house.descriptor(b"gone"), {"digest": 5}, None]
    key = layout.manifest_by_tag(REPO, f"sha256-{digest.hex}")
    listed = json.dumps(fallback).encode()  # more than a push could
    await house.store.put(layout.manifest_by_digest(REPO, Digest.of(listed)), listed)
    await house.store.put(key, listed)
    found, _ = await house.list_referrers(REPO, digest)
    assert sorted(entry["digest"] for entry in found) == sorted(
        str(Digest.of(manifest)) for manifest in (known, unknown)
    )
    # What is no manifest was not written by a client: nothing is answered that may lack some.
    await house.store.put(key, b"not json")
    answer = house.referrers.get(house.request(), REPO, str(digest))
    assert await house.refused(answer) == (500, Code.UNKNOWN)


async def test_long_lists_of_referrers_are_paged(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = house.descriptor(b"subject")
    pushed = set()
    for number in range(7):
        pushed.add(str(await house.push(REPO, await house.image(bytes([number]), subject=subject))))
    monkeypatch.setattr(referrers, "PAGE_COUNT", 3)
    seen: list[str] = []
    query: list[tuple[str, str]] = [
        ("artifactType", json.loads(await house.image())["config"]["mediaType"])
    ]
    pages = 0
    last: list[tuple[str, str]] = []
    while True:
        found, response = await house.list_referrers(REPO, subject["digest"], *query, *last)
        seen += [entry["digest"] for entry in found]
        pages += 1
        link = house.header(response, "Link")
        if link is None:
            break
        assert "artifactType=application%2Fvnd.oci.image.config.v1%2Bjson" in link
        last = [("last", link.partition("last=")[2].partition(">")[0])]
    assert pages == 3
    assert len(seen) == 7
    assert set(seen) == pushed


async def test_the_catalog(house: Any) -> None:
    assert await house.list_catalog() == ([], None)
    names = ["a", "a-b", "a/b", "a/b/c", "b"]
    data = await house.image()
    for name in names:
        await house.push(name, data)
    assert await house.list_catalog() == (names, None)
    assert await house.list_catalog(("n", "2")) == (
        ["a", "a-b"],
        '</v2/_catalog?n=2&last=a-b>; rel="next"',
    )
    assert await house.list_catalog(("n", "9"), ("last", "a-b")) == (names[2:], None)
    await house.delete("a/b", Digest.of(data))
    assert (await house.list_catalog())[0] == ["a", "a-b", "a/b/c", "b"]


async def test_the_catalog_of_a_bucket_that_was_there_before(house: Any) -> None:
    data = await house.image()
    await house.store.put(layout.manifest_by_digest("x/y", Digest.of(data)), data)
    await house.store.put(layout.manifest_by_tag("x", "v1"), data)
    await house.store.put("manifests/vm:v1/latest.json", data)
    await house.push("new", data)
    assert (await house.list_catalog())[0] == ["new", "x", "x/y"]
