"""Pushing blobs: the rows of distribution-spec that the official program leaves out."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.client import OCTETS, Client, digest_of, with_digest
from tests.conformance.operations import Repository

SIZE = 3000
FORM = ("Content-Type", "application/x-www-form-urlencoded")


def progress(repository: Repository, url: str) -> str:
    """The Range of an upload's status."""
    answer = repository.go("GET", url)
    assert answer.status == 204, answer
    assert answer.location.startswith(repository.uploads)
    return answer.get("Range")


def begun(repository: Repository, data: bytes, upto: int) -> str:
    """The URL of an upload that has the first bytes of `data`."""
    url = repository.begin().location
    assert repository.patch(url, data, 0, upto).status == 202
    return url


def finish(repository: Repository, url: str, data: bytes, start: int) -> None:
    """Send the rest and close."""
    assert repository.patch(url, data, start, len(data)).status == 202
    repository.close(url, data)


@pytest.mark.parametrize("body", [None, b"", [], b"ignored", [b"ignored"]])
def test_end4a_begin(repository: Repository, body: bytes | list[bytes] | None) -> None:
    answer = repository.client.send("POST", repository.uploads, body=body)
    assert answer.status == 202
    assert answer.location.startswith(repository.uploads)
    assert answer.get("Docker-Upload-UUID")
    assert not answer.get("OCI-Chunk-Min-Length")
    assert progress(repository, answer.location) == "0-0"


def test_end4a_without_the_slash_and_each_one_its_own(repository: Repository) -> None:
    url = repository.url("blobs", "uploads")
    locations = {repository.go("POST", url).location for _ in range(5)}
    assert len(locations) == 5


def test_end4a_chunks_of_any_size(repository: Repository) -> None:
    """There is no minimum, whatever the store wants of a part."""
    data = secrets.token_bytes(60)
    url, start = repository.begin().location, 0
    for size in (1, 1, 1, 2, 30, 1, 7, 17):
        answer = repository.patch(url, data, start, start + size)
        start += size
        assert (answer.status, answer.get("Range")) == (202, f"0-{start - 1}")
        url = answer.location
    assert start == len(data)
    repository.close(url, data)


@pytest.mark.parametrize("content_type", [None, FORM, ("Content-Type", "application/json")])
def test_end4b_any_type(repository: Repository, content_type: tuple[str, str] | None) -> None:
    data = b"digest=sha256:" + secrets.token_hex(20).encode()
    url = f"{repository.uploads}?digest={digest_of(data)}"
    answer = repository.go("POST", url, *([content_type] if content_type else []), body=data)
    assert answer.status == 201
    repository.get_blob(data)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("closed_with", ["sha256", "sha512"])
def test_end4c_algorithm(repository: Repository, algorithm: str, closed_with: str) -> None:
    """It is a hint: what counts is the digest that the upload is closed with."""
    data = secrets.token_bytes(SIZE)
    answer = repository.begin(f"?digest-algorithm={algorithm}")
    patched = repository.go("PATCH", answer.location, OCTETS, body=[data])
    repository.algorithm = closed_with
    repository.close(patched.location, data)
    repository.get_blob(data)


@pytest.mark.parametrize("algorithm", ["md5", "", "SHA256"])
def test_end4c_unknown_algorithm(repository: Repository, algorithm: str) -> None:
    answer = repository.go("POST", f"{repository.uploads}?digest-algorithm={algorithm}")
    assert answer.refusal == (400, "DIGEST_INVALID")


CONFLICTS = [
    (1001, 2000, "gap"),
    (999, 2000, "overlap"),
    (0, 1000, "the last chunk again"),
    (0, SIZE, "all again"),
    (2000, 1500, "backwards"),
]


@pytest.mark.parametrize(("start", "stop", "_"), CONFLICTS, ids=[each[2] for each in CONFLICTS])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_end5_chunks_that_do_not_follow(
    repository: Repository, method: str, start: int, stop: int, _: str
) -> None:
    data = secrets.token_bytes(SIZE)
    url = begun(repository, data, 1000)
    span = ("Content-Range", f"{start}-{stop - 1}")
    target = with_digest(url, digest_of(data)) if method == "PUT" else url
    answer = repository.go(method, target, OCTETS, span, body=data[start:stop] or b"x")
    assert answer.refusal == (416, "BLOB_UPLOAD_INVALID")
    assert progress(repository, url) == "0-999"
    finish(repository, url, data, 1000)


@pytest.mark.parametrize(
    "span",
    ["bytes 1000-1999/3000", "bytes=1000-1999", "1000", "1000-", "-1999", "a-b", "+1000-1999", ""],
)
def test_end5_content_range_that_is_none(repository: Repository, span: str) -> None:
    data = secrets.token_bytes(SIZE)
    url = begun(repository, data, 1000)
    answer = repository.go("PATCH", url, OCTETS, ("Content-Range", span), body=data[1000:2000])
    assert answer.refusal == (400, "BLOB_UPLOAD_INVALID")
    assert progress(repository, url) == "0-999"
    finish(repository, url, data, 1000)


@pytest.mark.parametrize("chunked", [False, True])
def test_end5_content_range_of_another_length(repository: Repository, chunked: bool) -> None:
    data = secrets.token_bytes(SIZE)
    url = begun(repository, data, 1000)
    body: bytes | list[bytes] = [data[1000:1500]] if chunked else data[1000:1500]
    answer = repository.go("PATCH", url, OCTETS, ("Content-Range", "1000-1999"), body=body)
    assert answer.refusal == (400, "SIZE_INVALID")
    assert progress(repository, url) == "0-999"
    finish(repository, url, data, 1000)


def test_end5_without_content_range_bytes_are_appended(repository: Repository) -> None:
    data = secrets.token_bytes(SIZE)
    url = repository.begin().location
    for start in range(0, SIZE, 1000):
        answer = repository.go("PATCH", url, body=data[start : start + 1000])
        assert (answer.status, answer.get("Range")) == (202, f"0-{start + 999}")
    repository.close(url, data)


def test_end5_the_first_location_stays_good(repository: Repository) -> None:
    """Clients should use the newest one; what counts is the offset, not the URL."""
    data = secrets.token_bytes(SIZE)
    first = repository.begin().location
    newest = repository.patch(first, data, 0, 1000).location
    assert repository.patch(newest, data, 1000, 2000).status == 202
    assert repository.patch(first, data, 0, 1000).status == 416
    finish(repository, first, data, 2000)


@pytest.mark.parametrize(
    "query", ["", "?digest=", "?digest=sha256:abc", f"?digest=md5:{'a' * 32}", "?digest=x"]
)
def test_end6_digest_that_is_none(repository: Repository, query: str) -> None:
    data = secrets.token_bytes(SIZE)
    url = begun(repository, data, 1000)
    answer = repository.go("PUT", url + query, OCTETS, body=data[1000:])
    assert answer.refusal == (400, "DIGEST_INVALID")
    finish(repository, url, data, 1000)


def test_end6_the_whole_blob_with_content_range(repository: Repository) -> None:
    data = secrets.token_bytes(SIZE)
    answer = repository.put_chunk(repository.begin().location, data, 0)
    assert answer.status == 201
    repository.get_blob(data)


def test_end6_no_bytes_in_every_framing(repository: Repository) -> None:
    data = secrets.token_bytes(SIZE)
    bodies: tuple[bytes | list[bytes] | None, ...] = (None, b"", [])
    for body in bodies:
        url = with_digest(begun(repository, data, SIZE), digest_of(data))
        answer = repository.client.send("PUT", url, body=body)
        assert answer.status == 201, body
        repository.delete_blob(data)


def test_end6_again_after_an_answer_that_was_lost(repository: Repository) -> None:
    data = secrets.token_bytes(SIZE)
    url = with_digest(begun(repository, data, SIZE), digest_of(data))
    for _ in range(3):
        answer = repository.go("PUT", url)
        assert answer.status == 201
        assert answer.location == repository.url("blobs", digest_of(data))
        assert answer.get("Docker-Content-Digest") == digest_of(data)


def test_end6_a_wrong_digest_stores_nothing(repository: Repository) -> None:
    data, wrong = secrets.token_bytes(SIZE), digest_of(secrets.token_bytes(8))
    answer = repository.go("PUT", with_digest(begun(repository, data, SIZE), wrong))
    assert answer.refusal == (400, "DIGEST_INVALID")
    for digest in (wrong, digest_of(data)):
        repository.missing_blob(digest)


def dead(repository: Repository, url: str) -> None:
    """No method knows the upload."""
    data = secrets.token_bytes(8)
    closing = with_digest(url, digest_of(data))
    for method, target in (("GET", url), ("PATCH", url), ("PUT", closing), ("DELETE", url)):
        body = data if method in ("PATCH", "PUT") else None
        answer = repository.go(method, target, body=body)
        assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN"), method


@pytest.mark.parametrize("token", ["x", "0" * 32, "A" * 48, "..", "a.b", "a" * 500, "%C3%A4"])
def test_end13_an_upload_that_nobody_began(repository: Repository, token: str) -> None:
    dead(repository, repository.uploads + token)


def test_end13_an_upload_of_another_repository(repository: Repository) -> None:
    data = secrets.token_bytes(SIZE)
    url = begun(repository, data, 1000)
    other = Repository(repository.client, f"{repository.name}-2")
    dead(other, other.uploads + url.rpartition("/")[2])
    fresh = repository.begin().location  # nothing is known of it but its token
    dead(other, other.uploads + fresh.rpartition("/")[2])
    finish(repository, url, data, 1000)


def test_end13_an_upload_that_is_complete(repository: Repository) -> None:
    data = secrets.token_bytes(SIZE)
    url = begun(repository, data, SIZE)
    repository.close(url, data)
    dead(repository, url)


@pytest.mark.parametrize("upto", [0, 1000])
def test_end14_cancelled(repository: Repository, upto: int) -> None:
    data = secrets.token_bytes(SIZE)
    url = begun(repository, data, upto) if upto else repository.begin().location
    answer = repository.go("DELETE", url)
    assert (answer.status, answer.body) == (204, b"")
    dead(repository, url)


@pytest.mark.parametrize(
    "query",
    [
        "mount={missing}&from={other}",
        "mount={missing}",
        "mount=baddigest&from={other}",
        "mount=&from={other}",
        "mount=sha256:abc&from={other}",
        "mount={there}&from=Bad..Name",
        "from={other}",
    ],
)
def test_end11_a_mount_that_cannot_be_is_an_upload(repository: Repository, query: str) -> None:
    there = secrets.token_bytes(SIZE)
    other = Repository(repository.client, f"{repository.name}-2")
    other.post_put(there)
    missing = digest_of(secrets.token_bytes(8))
    query = query.format(missing=missing, other=other.name, there=digest_of(there))
    answer = repository.go("POST", f"{repository.uploads}?{query}")
    assert answer.status == 202
    data = secrets.token_bytes(SIZE)
    put = repository.go("PUT", with_digest(answer.location, digest_of(data)), body=data)
    assert put.status == 201


@pytest.mark.parametrize("query", ["mount={d}&from={o}", "from={o}&mount={d}&origin=registry"])
def test_end11_mount_with_a_raw_query(repository: Repository, query: str) -> None:
    data = secrets.token_bytes(SIZE)
    other = Repository(repository.client, f"{repository.name}-2")
    other.post_put(data)
    query = query.format(d=digest_of(data), o=other.name)
    answer = repository.go("POST", f"{repository.uploads}?{query}")
    assert answer.status == 201
    assert answer.location == repository.url("blobs", digest_of(data))
    assert answer.get("Docker-Content-Digest") == digest_of(data)


def test_fields_that_clients_read(repository: Repository) -> None:
    data = secrets.token_bytes(SIZE)
    answers = [repository.begin()]
    answers.append(repository.patch(answers[0].location, data, 0, SIZE))
    answers.append(repository.go("GET", answers[1].location))
    for answer in answers:
        assert answer.get("Docker-Upload-UUID")
    answers.append(repository.go("PUT", with_digest(answers[2].location, digest_of(data))))
    assert answers[3].get("Docker-Content-Digest") == digest_of(data)
    for answer in answers:
        assert answer.get("Docker-Distribution-API-Version") == "registry/2.0"


@pytest.mark.parametrize("chunked", [False, True])
def test_the_same_blob_from_many_at_once(repository: Repository, chunked: bool) -> None:
    data = secrets.token_bytes(200_000)

    def push(number: int) -> int:
        client = Client(repository.client.port)
        try:
            mine = Repository(client, f"{repository.name}-{number}")
            if chunked:
                mine.chunked(data)
            else:
                mine.post_put(data)
            return mine.checks
        finally:
            client.close()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(push, range(6))) == [1] * 6


def test_one_upload_from_many_at_once(repository: Repository) -> None:
    """One chunk wins, and what it is part of is whole."""
    chunks = [secrets.token_bytes(SIZE) for _ in range(6)]
    url = repository.begin().location

    def patch(data: bytes) -> int:
        client = Client(repository.client.port)
        try:
            return Repository(client, repository.name).patch(url, data, 0, SIZE).status
        finally:
            client.close()

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(patch, chunks))
    assert sorted(statuses) == [202] + [416] * 5
    repository.close(url, chunks[statuses.index(202)])
