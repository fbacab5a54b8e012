"""Each data set of the official program: pushed, listed, pulled, asked for referrers, deleted."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable
from typing import TypeVar

import pytest

from tests.conformance.client import digest_of
from tests.conformance.datasets import DATA_SETS, DataSet
from tests.conformance.operations import ACCEPT, IMAGE, Repository

Item = TypeVar("Item")


def push(repository: Repository, data: DataSet) -> None:
    for blob in _shuffled(data.blobs.values()):
        repository.post_put(blob)
    for manifest in data.manifests.values():
        if manifest.sent is None:
            repository.put_manifest(
                manifest.data, manifest.media_type, tags=manifest.tags, subject=manifest.subject
            )
            continue
        answer = repository.go(
            "PUT",
            repository.url("manifests", manifest.digest),
            ("Content-Type", manifest.media_type),
            body=[manifest.sent],
        )
        assert answer.refusal == (400, "DIGEST_INVALID")
        repository.checks += 1
    for tag, manifest in _shuffled(data.pushed_by_name()):
        repository.put_manifest(
            manifest.data, manifest.media_type, tag=tag, subject=manifest.subject
        )


def head_and_pull(repository: Repository, data: DataSet) -> None:
    there = {key: value for key, value in data.manifests.items() if value.sent is None}
    for look in (repository.head_manifest, repository.get_manifest):
        for tag, digest in _shuffled(data.tags.items()):
            look(tag, there[digest].data, there[digest].media_type)
        for digest, manifest in there.items():
            look(digest, manifest.data, manifest.media_type)
    for blob in _shuffled(data.blobs.values()):
        repository.head_blob(blob)
        repository.get_blob(blob)


def delete(repository: Repository, data: DataSet) -> None:
    for tag in _shuffled(data.tags):
        repository.delete_manifest(tag)
    for digest, manifest in reversed(data.manifests.items()):
        if manifest.sent is None:
            repository.delete_manifest(digest)
            continue
        url = repository.url("manifests", digest)
        assert repository.go("DELETE", url).status == 404
        assert repository.go("HEAD", url).status == 404
        repository.checks += 2
    for blob in _shuffled(data.blobs.values()):
        repository.delete_blob(blob)


def _shuffled(items: Iterable[Item]) -> list[Item]:
    return random.sample(found := list(items), len(found))


@pytest.mark.parametrize("which", DATA_SETS)
def test_data_set(repository: Repository, which: str) -> None:
    make, checks = DATA_SETS[which]
    data = make()
    repository.algorithm = data.algorithm
    push(repository, data)
    repository.tag_list(data.tags)
    head_and_pull(repository, data)
    for subject, entries in data.referrers.items():
        repository.referrers(subject, entries)
    delete(repository, data)
    for subject in data.referrers:
        repository.referrers(subject, [])
        repository.checks -= 1  # the program does not ask again
    assert repository.checks == checks


def test_data_sets_one_after_another_in_one_repository(repository: Repository) -> None:
    """Tags, configs and `{}` come back right after they were deleted."""
    for which in ("image", "artifact", "artifacts-with-subject", "artifact-without-layers"):
        for _ in range(2):
            data = DATA_SETS[which][0]()
            push(repository, data)
            repository.tag_list(data.tags)
            head_and_pull(repository, data)
            delete(repository, data)


def test_an_unknown_repository_is_empty(repository: Repository) -> None:
    repository.tag_list([])
    repository.referrers(digest_of(secrets.token_bytes(32)), [])


def test_missing_manifests(repository: Repository) -> None:
    for reference in (digest_of(secrets.token_bytes(1024)), "missing-abcdefghij234567klmn"):
        answer = repository.go("GET", repository.url("manifests", reference), *ACCEPT)
        assert answer.refusal == (404, "NAME_UNKNOWN")
        head = repository.go("HEAD", repository.url("manifests", reference), *ACCEPT)
        assert (head.status, head.body) == (404, b"")


def test_a_reference_that_is_no_digest(repository: Repository) -> None:
    data = DataSet()
    digest = data.image([data.layer()])["digest"]
    for blob in data.blobs.values():
        repository.post_put(blob)
    url = repository.url("manifests", "sha256:baddigeststring")
    content = data.manifests[digest].data
    answer = repository.go("PUT", url, ("Content-Type", IMAGE), body=[content])
    assert answer.refusal == (400, "DIGEST_INVALID")
    assert repository.go("GET", url, *ACCEPT).refusal == (400, "DIGEST_INVALID")
    assert repository.go("GET", repository.url("manifests", digest)).status == 404
    for blob in data.blobs.values():
        repository.delete_blob(blob)
