"""Discovery and pull: the rows of distribution-spec that the official program leaves out."""

from __future__ import annotations

import secrets

import pytest

from tests.conformance.client import Client, digest_of
from tests.conformance.datasets import push_image
from tests.conformance.operations import IMAGE, INDEX, Repository

BAD_DIGESTS = [
    "sha256:",
    "sha256:abc",
    "sha256:" + "g" * 64,
    "sha256:" + "A" * 64,
    "sha256:" + "a" * 63,
    "sha256:" + "a" * 65,
    "sha512:" + "a" * 64,
    "md5:" + "a" * 32,
    "sha384:" + "a" * 96,
    ":" + "a" * 64,
    "sha256+b64:" + "a" * 64,
    "baddigest",
]

BAD_NAMES = [
    "Upper/case",
    "-begins",
    "ends-",
    "two..dots",
    "three___scores",
    "under_-score",
    "a/./b",
    "a/../b",
    "a//b",
    "%C3%A4",
    "a%20b",
    "a%00b",
    "a%0Ab",
    "_",
    "x" * 256,
]

GOOD_NAMES = ["a", "0", "a.b", "a_b", "a__b", "a-b", "a---b", "a/b/c/d", "x" * 255, "a/tags/list"]


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_end1_ping(client: Client, path: str) -> None:
    answer = client.send("GET", path)
    assert answer.status == 200
    assert answer.get("Docker-Distribution-API-Version") == "registry/2.0"
    head = client.send("HEAD", path)
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("digest", BAD_DIGESTS)
def test_end2_a_digest_that_is_none(repository: Repository, digest: str) -> None:
    url = repository.url("blobs", digest)
    assert repository.go("GET", url).refusal == (400, "DIGEST_INVALID")
    assert repository.go("HEAD", url).status == 400
    assert repository.go("DELETE", url).refusal == (400, "DIGEST_INVALID")


def test_end2_a_head_of_nothing_has_no_body_and_the_connection_lives(
    repository: Repository,
) -> None:
    url = repository.url("blobs", digest_of(secrets.token_bytes(8)))
    client = repository.client
    assert client.send("GET", "/v2/").status == 200
    connection = client.local_port
    head = client.send("HEAD", url)
    assert (head.status, head.body) == (404, b"")
    assert head.get("Content-Length") == str(len(client.send("GET", url).body))
    assert client.local_port == connection


RANGES = [
    ("bytes=0-0", 0, 1),
    ("bytes=0-", 0, 100),
    ("bytes=99-99", 99, 100),
    ("bytes=99-1000", 99, 100),
    ("bytes=-1", 99, 100),
    ("bytes=-1000", 0, 100),
    ("BYTES=1-2", 1, 3),
]


@pytest.mark.parametrize(("asked", "start", "stop"), RANGES)
def test_end2_ranges(repository: Repository, asked: str, start: int, stop: int) -> None:
    data = secrets.token_bytes(100)
    repository.post_put(data)
    url = repository.url("blobs", digest_of(data))
    answer = repository.go("GET", url, ("Range", asked))
    assert (answer.status, answer.body) == (206, data[start:stop])
    assert answer.get("Content-Range") == f"bytes {start}-{stop - 1}/100"


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=9-1"])
def test_end2_ranges_outside(repository: Repository, asked: str) -> None:
    data = secrets.token_bytes(100)
    repository.post_put(data)
    answer = repository.go("GET", repository.url("blobs", digest_of(data)), ("Range", asked))
    assert answer.status == 416
    assert answer.get("Content-Range") == "bytes */100"
    assert answer.json()["errors"]


@pytest.mark.parametrize("asked", ["lines=1-2", "bytes=a-b", "bytes=", "1-2"])
def test_end2_ranges_that_may_be_ignored(repository: Repository, asked: str) -> None:
    data = secrets.token_bytes(100)
    repository.post_put(data)
    answer = repository.go("GET", repository.url("blobs", digest_of(data)), ("Range", asked))
    assert (answer.status, answer.body) == (200, data)


def test_end2_conditions_of_a_range(repository: Repository) -> None:
    data = secrets.token_bytes(100)
    repository.post_put(data)
    url = repository.url("blobs", digest_of(data))
    whole = repository.go("GET", url)
    assert whole.get("Accept-Ranges") == "bytes"
    same = ("If-Range", whole.get("ETag"))
    assert repository.go("GET", url, ("Range", "bytes=5-9"), same).body == data[5:10]
    other = ("If-Range", '"another"')
    assert repository.go("GET", url, ("Range", "bytes=5-9"), other).body == data
    head = repository.go("HEAD", url, ("Range", "bytes=5-9"))
    assert (head.status, head.get("Content-Length")) == (200, "100")


def test_end2_ranges_of_no_bytes(repository: Repository) -> None:
    repository.post_put(b"")
    url = repository.url("blobs", digest_of(b""))
    for asked in ("bytes=0-", "bytes=-5"):
        answer = repository.go("GET", url, ("Range", asked))
        assert (answer.status, answer.body) == (200, b"")


SIX = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v2+json",
    INDEX,
    IMAGE,
)


@pytest.mark.parametrize(
    "accept",
    [
        (),
        ("*/*",),
        (", ".join(SIX),),
        SIX,
        ("application/json;q=0.1",),
        ("application/vnd.docker.distribution.manifest.v2+json",),
    ],
    ids=["none", "anything", "one list", "six lines", "json", "docker only"],
)
def test_end3_a_manifest_is_never_converted(repository: Repository, accept: list[str]) -> None:
    manifest = push_image(repository, "v1")
    fields = [("Accept", value) for value in accept]
    for reference in ("v1", manifest.digest):
        answer = repository.go("GET", repository.url("manifests", reference), *fields)
        assert (answer.status, answer.body) == (200, manifest.data)
        assert answer.all("Content-Type") == [IMAGE]


@pytest.mark.parametrize("digest", BAD_DIGESTS[:-1])
def test_end3_a_digest_that_is_none_is_not_a_tag(repository: Repository, digest: str) -> None:
    manifest = push_image(repository, "v1")
    url = repository.url("manifests", digest)
    put = repository.go("PUT", url, ("Content-Type", IMAGE), body=manifest.data)
    assert put.refusal == (400, "DIGEST_INVALID")
    assert repository.go("GET", url).refusal == (400, "DIGEST_INVALID")
    assert repository.go("HEAD", url).status == 400
    assert repository.go("DELETE", url).refusal == (400, "DIGEST_INVALID")
    assert repository.tags() == ["v1"]


def test_end3_what_is_unknown(repository: Repository) -> None:
    digest = digest_of(secrets.token_bytes(8))
    for reference in ("v1", digest):
        url = repository.url("manifests", reference)
        assert repository.go("GET", url).refusal == (404, "NAME_UNKNOWN")
        assert repository.go("DELETE", url).refusal == (404, "NAME_UNKNOWN")
    push_image(repository, "v1")
    for reference in ("v2", digest):
        url = repository.url("manifests", reference)
        assert repository.go("GET", url).refusal == (404, "MANIFEST_UNKNOWN")
        assert repository.go("DELETE", url).refusal == (404, "MANIFEST_UNKNOWN")


def test_end3_the_namespace_that_proxies_are_told_is_ignored(repository: Repository) -> None:
    manifest = push_image(repository, "v1")
    url = repository.url("manifests", "v1") + "?ns=docker.io"
    assert repository.go("GET", url).body == manifest.data


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_none(client: Client, name: str) -> None:
    digest = digest_of(b"")
    for method, rest in (
        ("GET", "tags/list"),
        ("GET", "manifests/v1"),
        ("PUT", "manifests/v1"),
        ("DELETE", "manifests/v1"),
        ("GET", f"blobs/{digest}"),
        ("DELETE", f"blobs/{digest}"),
        ("POST", "blobs/uploads/"),
        ("POST", f"blobs/uploads/?digest={digest}"),
        ("PATCH", "blobs/uploads/abc"),
        ("PUT", f"blobs/uploads/abc?digest={digest}"),
        ("GET", "blobs/uploads/abc"),
        ("DELETE", "blobs/uploads/abc"),
        ("GET", f"referrers/{digest}"),
    ):
        answer = client.go(method, f"/v2/{name}/{rest}")
        assert answer.refusal == (400, "NAME_INVALID"), (method, rest)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_that_are_good(client: Client, name: str) -> None:
    # A repository that no test writes to: other names begin with "conformance".
    answer = client.go("GET", f"/v2/{name}/tags/list")
    assert answer.refusal == (404, "NAME_UNKNOWN")


def test_methods_and_paths_that_there_are_not(repository: Repository) -> None:
    go = repository.go
    for method, url in (
        ("POST", repository.url("manifests", "v1")),
        ("PATCH", repository.url("blobs", digest_of(b""))),
        ("PUT", repository.url("tags", "list")),
        ("DELETE", repository.url("referrers", digest_of(b""))),
        ("GET", repository.uploads),
        ("POST", "/v2/"),
    ):
        answer = go(method, url)
        assert answer.refusal == (405, "UNSUPPORTED")
        assert method not in answer.get("Allow").split(", ")
        assert answer.get("Allow")
    for url in ("/", "/v1/", "/v2/_oci/ext/discover", "/v2/a/b", "/v2/a/tags", "/v2/a/tags/list/"):
        assert go("GET", url).status == 404
