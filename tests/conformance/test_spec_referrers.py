"""Referrers: the rows of distribution-spec that the official program leaves out."""

from __future__ import annotations

import json
import secrets
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.conformance.client import digest_of
from tests.conformance.datasets import (
    CONFIG,
    FIRST,
    SECOND,
    DataSet,
    Descriptor,
    Manifest,
    push,
    push_image,
)
from tests.conformance.operations import IMAGE, INDEX, Repository

MIB = 1024 * 1024


def artifact(repository: Repository, subject: str, **more: Any) -> Manifest:
    """Push an artifact that refers to a digest."""
    data = DataSet(repository.algorithm, private=True)
    described = {"mediaType": IMAGE, "digest": subject, "size": 7}
    found = data.artifact(**{"subject": described, **more})
    push(repository, data)
    return data.manifests[found["digest"]]


def referrers(repository: Repository, subject: str, query: str = "") -> list[Descriptor]:
    """The referrers on one page."""
    answer = repository.go("GET", repository.url("referrers", subject) + query)
    assert answer.status == 200, answer
    assert answer.all("Content-Type") == [INDEX]
    found: list[Descriptor] = answer.json()["manifests"]
    return found


def test_end12_nothing_refers(repository: Repository) -> None:
    zeros = "sha256:" + "0" * 64
    assert referrers(repository, zeros) == []
    push_image(repository, "v1")
    assert referrers(repository, zeros) == []
    answer = repository.go("GET", repository.url("referrers", zeros) + "?artifactType=a%2Fb")
    assert answer.get("OCI-Filters-Applied") == "artifactType"
    assert answer.json()["manifests"] == []


@pytest.mark.parametrize("digest", ["x", "v1", "sha256:abc", "sha256:" + "G" * 64])
def test_end12_a_digest_that_is_none(repository: Repository, digest: str) -> None:
    answer = repository.go("GET", repository.url("referrers", digest))
    assert answer.refusal == (400, "DIGEST_INVALID")


def test_end12_artifact_types(repository: Repository) -> None:
    """That of the config where an image has none; none where an index has none."""
    subject = digest_of(secrets.token_bytes(8))
    described = {"mediaType": IMAGE, "digest": subject, "size": 7}
    data = DataSet(private=True)
    plain = data.image([data.layer()], subject=described)
    without = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": described}
    index = json.dumps({**without, "annotations": {"a": secrets.token_hex(8)}}).encode()
    push(repository, data)
    assert repository.put(digest_of(index), index, INDEX).get("OCI-Subject") == subject
    first = artifact(repository, subject)
    found = {each["digest"]: each for each in referrers(repository, subject)}
    assert found[plain["digest"]]["artifactType"] == CONFIG
    assert "artifactType" not in found[digest_of(index)]
    assert found[digest_of(index)]["annotations"] == json.loads(index)["annotations"]
    assert found[first.digest]["artifactType"] == FIRST
    assert len(found) == 3
    for entry in found.values():
        answer = repository.go("GET", repository.url("manifests", entry["digest"]))
        assert (len(answer.body), answer.get("Content-Type")) == (entry["size"], entry["mediaType"])


def test_end12_filters(repository: Repository) -> None:
    subject = digest_of(secrets.token_bytes(8))
    one = artifact(repository, subject).digest
    two = artifact(repository, subject, artifact_type=SECOND).digest
    plus = artifact(repository, subject, artifact_type="application/vnd.x+json").digest

    def filtered(*types: str) -> set[str]:
        query = urlencode([("artifactType", each) for each in types])
        return {each["digest"] for each in referrers(repository, subject, f"?{query}")}

    assert filtered(FIRST) == {one}
    assert filtered(FIRST, SECOND) == {one, two}
    assert filtered("application/vnd.x+json") == {plus}
    assert filtered("application/vnd.none") == set()
    assert {each["digest"] for each in referrers(repository, subject)} == {one, two, plus}


def test_end12_sha512(repository: Repository) -> None:
    repository.algorithm = "sha512"
    subject = push_image(repository)
    found = artifact(repository, subject.digest)
    (entry,) = referrers(repository, subject.digest)
    assert entry["digest"] == found.digest
    assert found.digest.startswith("sha512:")


def test_end12_pages(repository: Repository) -> None:
    """A list that would be too large for clients comes in several, joined by Link."""
    subject = digest_of(secrets.token_bytes(8))
    large = {"large": "x" * (900 * 1024)}
    pushed = {artifact(repository, subject, annotations=large).digest for _ in range(4)}
    other = artifact(repository, subject, artifact_type=SECOND).digest
    for query, wanted in (
        ("", pushed | {other}),
        (f"?artifactType={quote(FIRST)}", pushed),
        (f"?artifactType={quote(SECOND)}", {other}),
    ):
        url, found, pages = repository.url("referrers", subject) + query, [], 0
        while url:
            answer = repository.go("GET", url)
            assert answer.get("OCI-Filters-Applied") == ("artifactType" if query else "")
            assert len(answer.body) < 4 * MIB
            found += [each["digest"] for each in answer.json()["manifests"]]
            link, pages = answer.get("Link"), pages + 1
            assert not link or link.endswith('>; rel="next"')
            url = link[1:].partition(">")[0]
        assert sorted(found) == sorted(wanted)
        assert pages > 1


def test_end12_what_clients_listed_under_a_tag(repository: Repository) -> None:
    """As they do for a registry without this API, which this one may have been."""
    subject = digest_of(secrets.token_bytes(8))
    indexed = artifact(repository, subject)
    listed_only = push_image(repository)
    entries = [
        {
            "mediaType": IMAGE,
            "digest": each.digest,
            "size": len(each.data),
            "artifactType": "application/vnd.old",
        }
        for each in (indexed, listed_only)
    ]
    fallback = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    tag = subject.replace(":", "-")
    assert repository.put(tag, json.dumps(fallback).encode(), INDEX).status == 201
    found = {each["digest"]: each["artifactType"] for each in referrers(repository, subject)}
    assert found == {indexed.digest: FIRST, listed_only.digest: "application/vnd.old"}


def test_end9_a_referrer_goes_from_the_list(repository: Repository) -> None:
    subject = push_image(repository, "v1")
    kept, gone = (artifact(repository, subject.digest) for _ in range(2))
    repository.delete_manifest(gone.digest)
    assert [each["digest"] for each in referrers(repository, subject.digest)] == [kept.digest]
    repository.delete_manifest(subject.digest)
    assert [each["digest"] for each in referrers(repository, subject.digest)] == [kept.digest]
