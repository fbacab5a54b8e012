"""Manifests, tags, deletion: the rows of distribution-spec that the official program leaves out."""

from __future__ import annotations

import json
import secrets
from typing import Any
from urllib.parse import quote

import pytest

from tests.conformance.client import digest_of, exchange
from tests.conformance.datasets import (
    DataSet,
    push,
    push_image,
)
from tests.conformance.operations import IMAGE, INDEX, Repository

MIB = 1024 * 1024


def image(repository: Repository, **more: Any) -> dict[str, Any]:
    """An image whose blobs are there, to be changed."""
    data = DataSet(private=True)
    found = data.image([data.layer()], **more)
    for blob in data.blobs.values():
        repository.post_put(blob)
    value: dict[str, Any] = json.loads(data.manifests[found["digest"]].data)
    return value


# end-7a: manifests


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        f"{IMAGE}; charset=utf-8",
        "application/json",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ],
)
def test_end7a_content_types(repository: Repository, content_type: str | None) -> None:
    """What a manifest is it says itself."""
    data = json.dumps(image(repository)).encode()
    assert repository.put("v1", data, content_type).status == 201
    repository.get_manifest("v1", data, IMAGE)


def test_end7a_without_media_type(repository: Repository) -> None:
    value = image(repository)
    del value["mediaType"]
    data = json.dumps(value).encode()
    assert repository.put("v1", data).status == 201
    repository.get_manifest("v1", data, IMAGE)
    empty = b'{"schemaVersion":2,"manifests":[]}'
    assert repository.put("v2", empty, INDEX).status == 201
    repository.get_manifest("v2", empty, INDEX)


def test_end7a_the_bytes_stay_as_they_are(repository: Repository) -> None:
    value = {**image(repository), "org.example.\u00e9": [1.50, None, {"b": 1, "a": 2}]}
    data = b"\n " + json.dumps(value, indent=3, ensure_ascii=False).encode() + b"\r\n\t"
    for reference in ("v1", digest_of(data)):
        assert repository.put(reference, data).status == 201
        repository.get_manifest(reference, data, IMAGE)
    repository.algorithm = "sha512"
    assert repository.put(repository.digest(data), data).status == 201
    repository.get_manifest(repository.digest(data), data, IMAGE)


def test_end7a_docker_types(repository: Repository) -> None:
    docker = "application/vnd.docker.distribution.manifest"
    value = {**image(repository), "mediaType": f"{docker}.v2+json"}
    data = json.dumps(value).encode()
    assert repository.put(digest_of(data), data, f"{docker}.v2+json").status == 201
    child = {"mediaType": f"{docker}.v2+json", "digest": digest_of(data), "size": len(data)}
    listed = {"schemaVersion": 2, "mediaType": f"{docker}.list.v2+json", "manifests": [child]}
    content = json.dumps(listed).encode()
    assert repository.put("v1", content, f"{docker}.list.v2+json").status == 201
    repository.get_manifest("v1", content, f"{docker}.list.v2+json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b"null",
        b'{"schemaVersion":1}',
        b'{"schemaVersion":2,"mediaType":"' + IMAGE.encode() + b'"}',
        b'{"schemaVersion":2,"manifests":[],"manifests":[]}',
        b'{"schemaVersion":2,"manifests":[{"digest":"sha256:x"}]}',
        b'{"schemaVersion":2,"manifests":"x"}',
        b'{"schemaVersion":2,"manifests":[],"layers":[]}',
        b'\xff\xfe{"schemaVersion":2,"manifests":[]}',
        b"[" * 100_000,
    ],
)
def test_end7a_what_is_no_manifest(repository: Repository, content: bytes) -> None:
    for content_type in (IMAGE, INDEX, None):
        answer = repository.put("v1", content, content_type)
        assert answer.refusal == (400, "MANIFEST_INVALID")
    assert repository.tags() == []


def test_end7a_types_that_contradict(repository: Repository) -> None:
    data = json.dumps(image(repository)).encode()
    for content_type in (INDEX, "application/vnd.docker.distribution.manifest.v2+json"):
        assert repository.put("v1", data, content_type).refusal == (400, "MANIFEST_INVALID")


def padded(repository: Repository, size: int) -> bytes:
    """A manifest of so many bytes."""
    value = image(repository, annotations={"pad": ""})
    room = size - len(json.dumps(value).encode())
    value["annotations"]["pad"] = "x" * room
    data = json.dumps(value).encode()
    assert len(data) == size
    return data


@pytest.mark.parametrize("chunked", [False, True])
def test_end7a_four_mib_and_not_one_byte_more(repository: Repository, chunked: bool) -> None:
    url = repository.url("manifests", "v1")
    data = padded(repository, 4 * MIB)
    answer = repository.go("PUT", url, ("Content-Type", IMAGE), body=[data] if chunked else data)
    assert answer.status == 201
    repository.get_manifest("v1", data, IMAGE)
    data += b" "
    answer = repository.go("PUT", url, ("Content-Type", IMAGE), body=[data] if chunked else data)
    assert answer.refusal == (413, "SIZE_INVALID")


def test_end7a_too_large_is_said_before_the_body_comes(repository: Repository) -> None:
    head = (
        f"PUT {repository.url('manifests', 'v1')} HTTP/1.1\r\nHost: x\r\n"
        f"Content-Length: {4 * MIB + 1}\r\nExpect: 100-continue\r\n\r\n"
    )
    answer = exchange(repository.client.port, head.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in answer


def test_end7a_missing_references(repository: Repository) -> None:
    value = image(repository)
    lost = [digest_of(secrets.token_bytes(8)) for _ in range(2)]
    missing = [{**value["layers"][0], "digest": digest} for digest in lost]
    data = json.dumps({**value, "layers": [*value["layers"], *missing]}).encode()
    answer = repository.put("v1", data)
    assert answer.refusal == (404, "MANIFEST_BLOB_UNKNOWN")
    assert {each["digest"] for each in answer.json()["errors"][0]["detail"]} == set(lost)
    child = {"mediaType": IMAGE, "digest": lost[0], "size": 1024}
    sparse = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}
    answer = repository.put("v1", json.dumps(sparse).encode(), INDEX)
    assert answer.refusal == (404, "MANIFEST_BLOB_UNKNOWN")
    assert repository.tags() == []


# Tags

BAD_TAGS = [".v1", "-v1", "v%2B1", "v1%20", "%C3%A4", "a" * 129, "v@1", "v1%0A"]


@pytest.mark.parametrize("tag", BAD_TAGS)
def test_tags_that_are_none(repository: Repository, tag: str) -> None:
    data = json.dumps(image(repository)).encode()
    assert repository.put(tag, data).refusal == (400, "MANIFEST_INVALID")
    assert repository.put(f"{digest_of(data)}?tag={tag}", data).status == 400
    assert repository.go("GET", repository.url("manifests", digest_of(data))).status == 404
    assert repository.tags() == []


@pytest.mark.parametrize("tag", ["a", "_", "A.b-c_d", "0", "a" * 128, "uploads", "list"])
def test_tags_that_are_good(repository: Repository, tag: str) -> None:
    manifest = push_image(repository, tag)
    repository.get_manifest(tag, manifest.data, IMAGE)
    assert repository.tags() == [tag]


def test_end7b_many_tags_at_once(repository: Repository) -> None:
    data = DataSet(private=True)
    tags = [f"v{number}" for number in range(50)]
    data.image([data.layer()], tags=tags)
    push(repository, data)
    assert repository.tags() == sorted(tags)


def test_end7b_a_tag_twice_and_one_that_is_moved(repository: Repository) -> None:
    first = push_image(repository, "v1")
    second = json.dumps(image(repository)).encode()
    url = f"{digest_of(second)}?tag=v1&tag=v1&tag=v2"
    answer = repository.put(url, second)
    assert (answer.status, answer.all("OCI-Tag")) == (201, ["v1", "v2"])
    repository.get_manifest("v1", second, IMAGE)
    repository.get_manifest(first.digest, first.data, IMAGE)


TAGS = sorted(["1", "10", "2", "A", "Z", "_", "a", "a-b", "a.b", "a0", "aa", "aaa", "z"])


def listed(repository: Repository, query: str) -> tuple[list[str], str]:
    """Tags and the URL of the next page or ""."""
    answer = repository.go("GET", repository.url("tags", "list") + query)
    assert answer.status == 200, answer
    link = answer.get("Link")
    if link:
        url, _, relation = link.partition(">; ")
        assert relation == 'rel="next"'
        assert url.startswith("</v2/")
        link = url[1:].partition("?")[2]
    return answer.json()["tags"], link and f"?{link}"


def test_end8_lists(repository: Repository) -> None:
    push_image(repository, *TAGS)
    assert listed(repository, "") == (TAGS, "")
    for n in ("99", "13", "1000000000000", "9" * 400):
        assert listed(repository, f"?n={n}") == (TAGS, ""), n
    assert listed(repository, "?n=0") == ([], "")
    assert listed(repository, "?n=0&last=A") == ([], "")
    assert listed(repository, "?n=3")[0] == TAGS[:3]
    for size in (1, 2, 5, 12):
        found, query = listed(repository, f"?n={size}")
        while query:
            page, query = listed(repository, query)
            assert 0 < len(page) <= size
            found += page
        assert found == TAGS


@pytest.mark.parametrize("last", ["", "0", "A", "B", "a", "a-", "a.b", "aaaa", "zz", "~", "a/b"])
def test_end8_last_is_exclusive_and_need_not_exist(repository: Repository, last: str) -> None:
    push_image(repository, *TAGS)
    after = [tag for tag in TAGS if tag > last]
    assert listed(repository, f"?last={quote(last, safe='')}") == (after, "")
    assert listed(repository, f"?n=2&last={quote(last, safe='')}")[0] == after[:2]


@pytest.mark.parametrize("n", ["-1", "x", "1.5", "", "0x10", "%D9%A1"])
def test_end8_n_that_is_none(repository: Repository, n: str) -> None:
    push_image(repository, "v1")
    answer = repository.go("GET", repository.url("tags", "list") + f"?n={n}")
    assert answer.refusal[0] == 400


def test_end8_no_tags_are_an_empty_list(repository: Repository) -> None:
    push_image(repository)
    assert repository.tags() == []
    answer = repository.go("GET", repository.url("tags", "list"))
    assert answer.json() == {"name": repository.name, "tags": []}


def test_end8_names_within_names(repository: Repository) -> None:
    """Neither sees the tags of the other."""
    push_image(repository, "v1")
    nested = Repository(repository.client, f"{repository.name}/v1")
    push_image(nested, "v2")
    assert (repository.tags(), nested.tags()) == (["v1"], ["v2"])


# end-9 and end-10: deletion


def test_end9_a_tag_goes_and_its_manifest_stays(repository: Repository) -> None:
    manifest = push_image(repository, "v1", "v2")
    repository.delete_manifest("v1")
    assert repository.tags() == ["v2"]
    repository.get_manifest(manifest.digest, manifest.data, IMAGE)
    again = repository.go("DELETE", repository.url("manifests", "v1"))
    assert again.refusal == (404, "MANIFEST_UNKNOWN")


def test_end9_a_manifest_goes_with_its_tags(repository: Repository) -> None:
    other = push_image(repository, "other")
    manifest = push_image(repository, "v1", "v2")
    repository.delete_manifest(manifest.digest)
    assert repository.tags() == ["other"]
    for tag in ("v1", "v2"):
        answer = repository.go("GET", repository.url("manifests", tag))
        assert answer.refusal == (404, "MANIFEST_UNKNOWN")
    again = repository.go("DELETE", repository.url("manifests", manifest.digest))
    assert again.refusal == (404, "MANIFEST_UNKNOWN")
    repository.get_manifest("other", other.data, IMAGE)


def test_end9_the_last_manifest_takes_the_repository_with_it(repository: Repository) -> None:
    manifest = push_image(repository, "v1")
    repository.delete_manifest(manifest.digest)
    answer = repository.go("GET", repository.url("tags", "list"))
    assert answer.refusal == (404, "NAME_UNKNOWN")


def test_end10_a_blob_that_is_needed_stays(repository: Repository) -> None:
    """Blobs are shared by all repositories."""
    manifest = push_image(repository, "v1")
    layer = json.loads(manifest.data)["layers"][0]["digest"]
    other = Repository(repository.client, f"{repository.name}-2")
    for each in (repository, other):
        answer = each.go("DELETE", each.url("blobs", layer))
        assert answer.refusal == (405, "UNSUPPORTED")
        assert answer.get("Allow") == "GET, HEAD"
        assert each.go("HEAD", each.url("blobs", layer)).status == 200
    repository.delete_manifest(manifest.digest)
    assert repository.go("DELETE", repository.url("blobs", layer)).status == 202
    answer = repository.go("DELETE", repository.url("blobs", layer))
    assert answer.refusal == (404, "BLOB_UNKNOWN")


# The catalog: not in the spec, and asked for by many


def test_catalog(repository: Repository) -> None:
    names = sorted(f"{repository.name}-{letter}" for letter in "abc")
    for name in names:
        push_image(Repository(repository.client, name), "v1")
    answer = repository.go("GET", "/v2/_catalog")
    assert set(names) <= set(answer.json()["repositories"])
    found: list[str] = []
    url = f"/v2/_catalog?n=2&last={quote(repository.name)}"
    while url and (not found or found[-1] < names[-1]):
        answer = repository.go("GET", url)
        found += answer.json()["repositories"]
        url = answer.get("Link")[1:].partition(">")[0]
    assert found[:3] == names
