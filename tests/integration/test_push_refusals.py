"""What is refused: with its status, its OCI code, and nothing left in the store."""

from __future__ import annotations

import random

import pytest

from tests.tools.client import Client, digest_of, head, pieces, put_blob, request
from tests.tools.running import PART, Running

DIRECTORY = pytest.mark.parametrize("place", ["directory"], indirect=True)
"""For what is refused before any store is asked."""

DATA = random.Random(8).randbytes(2 * PART + 5)
DIGEST = digest_of(DATA[:100])
HEX = DIGEST.removeprefix("sha256:")
OTHER = digest_of(b"another blob")

BAD_DIGESTS = [
    "sha256:",
    "sha256:" + HEX.upper(),
    "sha256:" + HEX[:-1],
    "sha256:" + HEX + "0",
    "sha256:" + HEX[:-1] + "g",
    "sha256:" + HEX[:-1] + "%c3%a9",
    "sha256:" + HEX[:-1] + "%0a",
    "SHA256:" + HEX,
    "sha384:" + "0" * 96,
    "sha512:" + HEX,
    "md5:" + "0" * 32,
    ":" + HEX,
    "sha256:sha256:" + HEX,
    "sha256%3A" + HEX[:-1],
    HEX[:-1],
    "latest",
]

BAD_NAMES = [
    "A/b",
    "a//b",
    "a/../b",
    "a/%2e%2e/b",
    "a/./b",
    "-a",
    "a-",
    "a..b",
    "a___b",
    "_a",
    "a/",
    "%61%00",
    "a%0d%0aX-Evil: 1".replace(" ", "%20"),
    "a%5cb",
    "caf%c3%a9",
    "a" * 256,
]


async def nothing_kept(running: Running) -> None:
    """No object, no multipart upload, no buffer."""
    await running.assert_holds_nothing()
    assert await running.keys() == []


@DIRECTORY
@pytest.mark.parametrize("digest", BAD_DIGESTS)
async def test_malformed_digests(running: Running, digest: str) -> None:
    targets = [
        ("PUT", f"/v2/a/b/blobs/{digest}"),
        ("POST", f"/v2/a/b/blobs/uploads/?digest={digest}"),
        ("PUT", f"/v2/a/b/blobs/uploads/{'0' * 32}?digest={digest}"),
    ]
    for method, target in targets:
        answer = await request(running.port, method, target, DATA[:100])
        assert answer.refusal == (400, "DIGEST_INVALID"), target
    await nothing_kept(running)


@DIRECTORY
@pytest.mark.parametrize("name", BAD_NAMES)
async def test_malformed_names(running: Running, name: str) -> None:
    for method, target in (
        ("PUT", f"/v2/{name}/blobs/{DIGEST}"),
        ("POST", f"/v2/{name}/blobs/uploads/?digest={DIGEST}"),
        ("POST", f"/v2/{name}/blobs/uploads/"),
    ):
        answer = await request(running.port, method, target, DATA[:100])
        assert answer.refusal == (400, "NAME_INVALID"), target
    await nothing_kept(running)


@pytest.mark.parametrize("size", [0, 1, 100, PART, PART + 1, len(DATA)])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_wrong_digest(running: Running, size: int, algorithm: str, chunked: bool) -> None:
    data = DATA[:size]
    wrong = digest_of(data + b"!", algorithm)
    answer = await put_blob(
        running.port, data, wrong, body=pieces(data, 100_000) if chunked else None
    )
    assert answer.refusal == (400, "DIGEST_INVALID")
    await nothing_kept(running)


async def test_wrong_digest_in_each_way(running: Running) -> None:
    for body in (DATA[:100], [DATA[:100]]):
        begun = await request(running.port, "POST", "/v2/a/b/blobs/uploads/", b"")
        location = begun.headers["location"]
        for method, target in (
            ("PUT", f"/v2/a/b/blobs/{OTHER}"),
            ("POST", f"/v2/a/b/blobs/uploads/?digest={OTHER}"),
            ("PUT", f"{location}{'&' if '?' in location else '?'}digest={OTHER}"),
        ):
            answer = await request(running.port, method, target, body)
            assert answer.refusal == (400, "DIGEST_INVALID")
    await running.assert_holds_nothing()
    # What the sessions leave behind is their own tests' matter.
    assert [key for key in await running.keys() if not key.startswith("_uploads/")] == []


@pytest.mark.parametrize("missing", [1, 100, PART, PART + 1])
async def test_body_shorter_than_announced(running: Running, missing: int) -> None:
    """The client gives up by a half-close, and is told."""
    async with Client(running.port) as client:
        raw = head("PUT", f"/v2/a/b/blobs/{digest_of(DATA)}", DATA)
        await client.send(raw + DATA[: len(DATA) - missing])
        client.finish()
        assert (await client.answer()).refusal == (400, "SIZE_INVALID")
    await nothing_kept(running)


async def test_chunked_body_without_its_end(running: Running) -> None:
    async with Client(running.port) as client:
        raw = head("PUT", f"/v2/a/b/blobs/{digest_of(DATA)}", [DATA])
        await client.send(raw + b"%x\r\n" % len(DATA) + DATA + b"\r\n")
        client.finish()
        assert (await client.answer()).refusal == (400, "SIZE_INVALID")
    await nothing_kept(running)


@DIRECTORY
async def test_body_longer_than_announced(running: Running) -> None:
    """What follows is the next request, and it is none."""
    async with Client(running.port) as client:
        data = DATA[:100]
        await client.send(head("PUT", f"/v2/a/b/blobs/{DIGEST}", data) + data + b"more\r\n\r\n")
        assert (await client.answer()).status == 201
        assert (await client.answer()).refusal == (400, "BAD_REQUEST")
        assert await client.at_end()


@DIRECTORY
@pytest.mark.parametrize(
    "body", [b"zz\r\n", b"5\r\nabcdeX\r\n", b"-1\r\n", b"+5\r\nabcde\r\n0\r\n\r\n", b"0x5\r\n"]
)
async def test_malformed_chunks(running: Running, body: bytes) -> None:
    async with Client(running.port) as client:
        await client.send(head("PUT", f"/v2/a/b/blobs/{DIGEST}", [b""]) + body)
        assert (await client.answer()).refusal == (400, "BAD_REQUEST")
        assert await client.at_end()
    await nothing_kept(running)


@DIRECTORY
@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ([], (411, "SIZE_INVALID")),
        ([f"Content-Length: {2**63 - 1}"], (413, "SIZE_INVALID")),
        ([f"Content-Length: {2**63}"], (413, "SIZE_INVALID")),
        ([f"Content-Length: {2**64}"], (413, "SIZE_INVALID")),
        ([f"Content-Length: {2**64 + 100}"], (413, "SIZE_INVALID")),
        (["Content-Length: 5497558138881"], (413, "SIZE_INVALID")),
        (["Content-Length: " + "9" * 4000], (413, "SIZE_INVALID")),
        (["Content-Length: -1"], (400, "BAD_REQUEST")),
        (["Content-Length: +5"], (400, "BAD_REQUEST")),
        (["Content-Length: 1_0"], (400, "BAD_REQUEST")),
        (["Content-Length: 5", "Content-Length: 5"], (400, "BAD_REQUEST")),
        (["Content-Length: 5", "Transfer-Encoding: chunked"], (400, "BAD_REQUEST")),
        (["Transfer-Encoding: gzip, chunked"], (501, "BAD_REQUEST")),
        (["Content-Length: 5", "Expect: 200-ok"], (417, "BAD_REQUEST")),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_lengths(running: Running, fields: list[str], refusal: tuple[int, str]) -> None:
    for method, target in (
        ("PUT", f"/v2/a/b/blobs/{DIGEST}"),
        ("POST", f"/v2/a/b/blobs/uploads/?digest={DIGEST}"),
    ):
        async with Client(running.port) as client:
            await client.send(head(method, target, None, *fields))
            assert (await client.answer()).refusal == refusal
    await nothing_kept(running)


async def test_refused_before_the_body_is_asked_for(running: Running) -> None:
    """With `Expect: 100-continue` no byte of a refused body is sent."""
    async with Client(running.port) as client:
        raw = head("PUT", "/v2/a/b/blobs/sha256:0", DATA, "Expect: 100-continue")
        await client.send(raw)
        assert (await client.answer()).refusal == (400, "DIGEST_INVALID")
        assert await client.at_end()
    async with Client(running.port) as client:
        target = f"/v2/a/b/blobs/{digest_of(DATA)}"
        await client.send(head("PUT", target, DATA, "Expect: 100-continue"))
        await client.continued()
        await client.send(DATA)
        assert (await client.answer()).status == 201


async def test_refusal_is_seen_by_a_client_that_is_still_sending(running: Running) -> None:
    for _ in range(20):
        answer = await put_blob(running.port, DATA, "sha256:0")
        assert answer.refusal == (400, "DIGEST_INVALID")


@DIRECTORY
@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/",
        "/v2/a",
        "/v2/a/b/blobs",
        "/v2/a/b/blobs/",
        f"/v2/blobs/{DIGEST}",
        f"/v2/a/b/blobs/{DIGEST}/x",
        f"//v2/a/b/blobs/{DIGEST}",
        f"/V2/a/b/blobs/{DIGEST}",
        "/v2/a/b/blobs/uploads/x/y",
    ],
)
async def test_unknown_routes(running: Running, target: str) -> None:
    for method in ("GET", "PUT", "POST"):
        answer = await request(running.port, method, target, DATA[:100])
        assert answer.refusal == (404, "UNSUPPORTED")
    await nothing_kept(running)


@DIRECTORY
@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", f"/v2/a/b/blobs/{DIGEST}", {"GET", "HEAD", "PUT", "DELETE"}),
        ("PATCH", f"/v2/a/b/blobs/{DIGEST}", {"GET", "HEAD", "PUT", "DELETE"}),
        ("PUT", "/v2/a/b/blobs/uploads/", {"POST"}),
        ("GET", "/v2/a/b/blobs/uploads/", {"POST"}),
        ("PUT", "/v2/", {"GET", "HEAD"}),
        ("TRACE", f"/v2/a/b/blobs/{DIGEST}", {"GET", "HEAD", "PUT", "DELETE"}),
    ],
)
async def test_methods(running: Running, method: str, target: str, allowed: set[str]) -> None:
    answer = await request(running.port, method, target, DATA[:100])
    assert answer.refusal == (405, "UNSUPPORTED")
    assert set(answer.headers["allow"].split(", ")) == allowed


@DIRECTORY
async def test_closing_put_without_digest_or_session(running: Running) -> None:
    target = f"/v2/a/b/blobs/uploads/{'0' * 32}"
    answer = await request(running.port, "PUT", target, DATA[:100])
    assert answer.refusal == (400, "DIGEST_INVALID")
    answer = await request(running.port, "PUT", f"{target}?digest=", DATA[:100])
    assert answer.refusal == (400, "DIGEST_INVALID")
    target = f"/v2/a/b/blobs/uploads/nothing?digest={DIGEST}"
    answer = await request(running.port, "PUT", target, DATA[:100])
    assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN")
    await nothing_kept(running)
