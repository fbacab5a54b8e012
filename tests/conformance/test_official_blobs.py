"""The blob scenarios of the official program, for each digest algorithm."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from tests.conformance.client import digest_of
from tests.conformance.operations import CHUNK, Repository

SMALL = 512
ODD = 3 * CHUNK - 5
"""Bytes of which the chunks are 1024, 1024 and 1019."""

Push = Callable[[Repository, bytes, str | None], object]

WAYS: dict[str, Push] = {
    "post only": lambda to, data, digest: to.post_only(data, digest),
    "post+put": lambda to, data, digest: to.post_put(data, digest),
    "chunked": lambda to, data, digest: to.chunked(data, digest),
    "chunked and put chunk": lambda to, data, digest: to.chunked(data, digest, put_last=True),
    "stream": lambda to, data, digest: to.stream(data, digest),
}


def test_a_blob_that_was_never_pushed(hashed: Repository) -> None:
    hashed.missing_blob(hashed.digest(secrets.token_bytes(SMALL)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("data", [None, b"", b"{}"], ids=["random", "empty", "empty JSON"])
def test_push(hashed: Repository, way: str, data: bytes | None) -> None:
    """Each is deleted and pushed once more: nothing remembers that it was gone."""
    for size in (SMALL, ODD):
        content = secrets.token_bytes(size) if data is None else data
        hashed.checks = 0
        WAYS[way](hashed, content, None)
        hashed.head_get_delete(content)
        assert hashed.checks == 5


def test_chunk_sizes(hashed: Repository) -> None:
    assert hashed.chunked(secrets.token_bytes(SMALL)) == [512]
    assert hashed.chunked(secrets.token_bytes(ODD)) == [1024, 1024, 1019]
    assert hashed.chunked(secrets.token_bytes(ODD), put_last=True) == [1024, 1024, 1019]


@pytest.mark.parametrize("way", WAYS)
def test_bad_digest(hashed: Repository, way: str) -> None:
    data = secrets.token_bytes(ODD)
    WAYS[way](hashed, data + b"oh no", hashed.digest(data))
    assert hashed.checks == 1


@pytest.mark.parametrize("named", [True, False], ids=["mount", "mount anonymous"])
def test_mount(hashed: Repository, named: bool) -> None:
    data = secrets.token_bytes(SMALL)
    other = Repository(hashed.client, f"{hashed.name}-2", hashed.algorithm)
    other.post_put(data)
    hashed.mount(data, other.name if named else None)
    hashed.head_get_delete(data)


def test_mount_of_a_blob_that_is_nowhere(hashed: Repository) -> None:
    data = secrets.token_bytes(SMALL)
    hashed.mount(data, f"{hashed.name}-2", found=False)
    hashed.head_get_delete(data)


def test_cancel(hashed: Repository) -> None:
    url = hashed.cancel()
    hashed.delete_blob(secrets.token_bytes(SMALL), there=False)
    assert hashed.checks == 3
    assert hashed.go("GET", url).refusal == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("put_last", [False, True], ids=["patch", "put chunk"])
def test_chunks_out_of_order(hashed: Repository, put_last: bool) -> None:
    """Each one is refused with 416, leaves nothing, and the upload goes on."""
    data = secrets.token_bytes(ODD)
    url = hashed.begin().location

    def refused(answer_url: str, start: int, stop: int) -> str:
        answer = hashed.patch(answer_url, data, start, stop)
        assert answer.refusal == (416, "BLOB_UPLOAD_INVALID")
        return answer.location if answer.get("Location") else answer_url

    def status(of: str, expected: str) -> str:
        answer = hashed.go("GET", of)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.get("Range") == expected
        return answer.location if answer.get("Location") else of

    url = status(refused(url, 1024, 2048), "0-0")
    answer = hashed.patch(url, data, 0, 1024)
    assert answer.status == 202
    url = answer.location
    if put_last:
        early = hashed.put_chunk(url, data, 2048)
        assert early.refusal == (416, "BLOB_UPLOAD_INVALID")
        # Asked at the URL of the refused request, `?digest=` and all.
        url = status(early.location if early.get("Location") else early.url, "0-1023")
    else:
        url = status(refused(url, 2048, ODD), "0-1023")
    answer = hashed.patch(url, data, 1024, 2048)
    assert answer.status == 202
    url = status(refused(answer.location, 0, 1024), "0-2047")
    if put_last:
        closed = hashed.put_chunk(url, data, 2048)
        assert closed.status == 201
        assert closed.get("Docker-Content-Digest") == hashed.digest(data)
        assert hashed.go("GET", closed.location).body == data
    else:
        answer = hashed.patch(url, data, 2048, ODD)
        assert answer.status == 202
        hashed.close(answer.location, data)
    hashed.head_get_delete(data)


def test_status_at_the_url_of_a_refused_put(hashed: Repository) -> None:
    """Whatever Location the refusal had: the URL with `?digest=` is that of the upload too."""
    data = secrets.token_bytes(ODD)
    answer = hashed.patch(hashed.begin().location, data, 0, 1024)
    refused = hashed.put_chunk(answer.location, data, 2048)
    assert refused.status == 416
    status = hashed.go("GET", refused.url)
    assert (status.status, status.get("Range")) == (204, "0-1023")


RANGES = [
    ("500-1499", 500, 1500),
    ("500-", 500, 2048),
    ("-500", 1548, 2048),
    ("2000-5000", 2000, 2048),
    ("500-0", 0, 0),
    ("5000-10000", 0, 0),
]


def test_ranges(hashed: Repository) -> None:
    data = secrets.token_bytes(2048)
    hashed.post_put(data)
    url = hashed.url("blobs", hashed.digest(data))
    for asked, start, stop in RANGES:
        answer = hashed.go("GET", url, ("Range", f"bytes={asked}"))
        if stop == 0:
            assert answer.status == 416, asked
            assert answer.get("Content-Range") == "bytes */2048"
            continue
        assert answer.status == 206, asked
        assert answer.body == data[start:stop]
        assert answer.get("Content-Length") == str(stop - start)
        assert answer.get("Content-Range") == f"bytes {start}-{stop - 1}/2048"
        assert answer.get("Docker-Content-Digest") == hashed.digest(data)
    hashed.delete_blob(data)


def test_both_digests_of_one_blob(repository: Repository) -> None:
    """Under each algorithm a blob is there once it was pushed under it, and not before."""
    data = secrets.token_bytes(SMALL)
    repository.stream(data)
    repository.missing_blob(digest_of(data, "sha512"))
    repository.algorithm = "sha512"
    repository.chunked(data)
    repository.get_blob(data)
    repository.algorithm = "sha256"
    repository.get_blob(data)
