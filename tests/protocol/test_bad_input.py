"""What is no HTTP, or not good enough: the right status, then the connection is closed."""

from __future__ import annotations

import json
import random

import pytest

from epoch.http.message import Request, Response
from tests.protocol.serve import exchange, serving, statuses

BEHIND = b"GET /hello/behind HTTP/1.1\r\nHost: a\r\n\r\n"
"""Follows every bad request, and must never be taken for a request."""


def _put(fields: bytes, body: bytes = b"", path: bytes = b"/echo") -> bytes:
    return b"PUT " + path + b" HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n" + body


def _get(path: bytes) -> bytes:
    return b"GET /" + path + b" HTTP/1.1\r\nHost: a\r\n\r\n"


LENGTH_5 = b"Content-Length: 5\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CASES = {
    "two lengths": (_put(LENGTH_5 * 2, b"hello"), 400, "BAD_REQUEST"),
    "length and coding": (_put(LENGTH_5 + CHUNKED, b"0\r\n\r\n"), 400, "BAD_REQUEST"),
    "coding and length": (_put(CHUNKED + LENGTH_5, b"0\r\n\r\n"), 400, "BAD_REQUEST"),
    "two hosts": (_put(b"Host: b\r\n"), 400, "BAD_REQUEST"),
    "no host": (b"GET /hello HTTP/1.1\r\n\r\n", 400, "BAD_REQUEST"),
    "bare LF": (b"GET /hello HTTP/1.1\nHost: a\n\n", 400, "BAD_REQUEST"),
    "bare LF in the middle": (_put(b"X: y\nContent-Length: 5\r\n", b"hello"), 400, "BAD_REQUEST"),
    "bare CR": (_put(b"X: y\rz\r\n"), 400, "BAD_REQUEST"),
    "folded": (_put(b"X: y\r\n Content-Length: 5\r\n", b"hello"), 400, "BAD_REQUEST"),
    "space before the colon": (_put(b"Content-Length : 5\r\n", b"hello"), 400, "BAD_REQUEST"),
    "NUL": (_put(b"X: \0\r\n"), 400, "BAD_REQUEST"),
    "2**64": (_put(b"Content-Length: 18446744073709551616\r\n"), 413, "SIZE_INVALID"),
    "2**63": (_put(b"Content-Length: 9223372036854775808\r\n"), 413, "SIZE_INVALID"),
    "2**63 - 1": (_put(b"Content-Length: 9223372036854775807\r\n"), 413, "SIZE_INVALID"),
    "more than is taken": (_put(b"Content-Length: 1048577\r\n"), 413, "SIZE_INVALID"),
    "chunk of 2**64": (_put(CHUNKED, b"10000000000000000\r\n"), 400, "BAD_REQUEST"),
    "chunk of 2**64 - 1": (_put(CHUNKED, b"ffffffffffffffff\r\n"), 413, "SIZE_INVALID"),
    "chunk too large": (_put(CHUNKED, b"200000\r\n" + bytes(0x200000)), 413, "SIZE_INVALID"),
    "no chunk size": (_put(CHUNKED, b"\r\nhello\r\n0\r\n\r\n"), 400, "BAD_REQUEST"),
    "chunk longer than said": (_put(CHUNKED, b"4\r\nhello\r\n0\r\n\r\n"), 400, "BAD_REQUEST"),
    "chunk with bare LF": (_put(CHUNKED, b"5\nhello\r\n0\r\n\r\n"), 400, "BAD_REQUEST"),
    "trailer with bare LF": (_put(CHUNKED, b"0\r\nX: y\n\r\n\r\n"), 400, "BAD_REQUEST"),
    "chunk extension of 1 MB": (_put(CHUNKED, b"5;" + b"x" * 10**6), 400, "BAD_REQUEST"),
    "1,000 leading zeros": (_put(CHUNKED, b"0" * 1000 + b"5\r\nhello"), 400, "BAD_REQUEST"),
    "gzip, chunked": (_put(b"Transfer-Encoding: gzip, chunked\r\n"), 501, "BAD_REQUEST"),
    "another expectation": (_put(b"Expect: 200-ok\r\nContent-Length: 5\r\n"), 417, "BAD_REQUEST"),
    "HTTP/0.9": (b"GET /hello\r\n\r\n", 400, "BAD_REQUEST"),
    "HTTP/2.0": (b"GET /hello HTTP/2.0\r\nHost: a\r\n\r\n", 505, "BAD_REQUEST"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505, "BAD_REQUEST"),
    "unknown method": (b"BREW /hello HTTP/1.1\r\nHost: a\r\n\r\n", 501, "UNSUPPORTED"),
    "CONNECT": (b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", 405, "UNSUPPORTED"),
    "a proxy's request": (b"GET http://b/hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, "BAD_REQUEST"),
    "URL of 70 kB": (_get(b"a" * 70_000), 414, "BAD_REQUEST"),
    "URL of 9 kB": (_get(b"a" * 9_000), 414, "BAD_REQUEST"),
    "10,000 fields": (_put(b"X: y\r\n" * 10_000), 431, "BAD_REQUEST"),
    "101 fields": (_put(b"X: y\r\n" * 100), 431, "BAD_REQUEST"),
    "a field of 64 kB": (_put(b"X: " + b"y" * 65536 + b"\r\n"), 431, "BAD_REQUEST"),
    "an endless head": (b"GET /hello HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431, "BAD_REQUEST"),
    "an endless line": (b"G" * 100_000, 414, "BAD_REQUEST"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_refusals(name: str) -> None:
    wire, status, code = CASES[name]
    async with serving() as server:
        answer = await exchange(server.port, wire + BEHIND)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert statuses(answer) == [status]
        assert b"\r\nConnection: close" in head
        assert b"\r\nContent-Type: application/json" in head
        (error,) = json.loads(body)["errors"]
        assert error["code"] == code
        assert error["message"]
        assert [line[1] for line in server.lines] == [status]


@pytest.mark.parametrize("name", CASES)
async def test_refusals_behind_a_good_request(name: str) -> None:
    wire, status, _ = CASES[name]
    good = _put(LENGTH_5, b"hello") + _put(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")
    async with serving() as server:
        assert statuses(await exchange(server.port, good + wire + BEHIND)) == [
            200,
            200,
            status,
        ]


async def test_a_body_shorter_than_announced_then_the_end() -> None:
    async with serving() as server:
        answer = await exchange(server.port, _put(b"Content-Length: 6\r\n", b"hello"), finish=True)
        assert statuses(answer) == [400]
        assert b"SIZE_INVALID" in answer


async def test_a_body_longer_than_announced_is_the_next_request() -> None:
    async with serving() as server:
        answer = await exchange(server.port, _put(b"Content-Length: 4\r\n", b"hello") + BEHIND)
        # "oGET": what was too much is read as a request, and refused as one.
        assert statuses(answer) == [200, 501]


async def test_no_length_is_no_body() -> None:
    async with serving() as server:
        assert statuses(await exchange(server.port, _put(b"", BEHIND), finish=True)) == [
            200,
            200,
        ]


async def test_an_upgrade_is_ignored_with_its_body_in_its_place() -> None:
    upgrade = b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 5\r\n"
    async with serving() as server:
        answer = await exchange(server.port, _put(upgrade, b"hello") + BEHIND, finish=True)
        assert statuses(answer) == [200, 200]
        assert b"101" not in answer


HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(200)
"""The beginning of a TLS ClientHello."""


@pytest.mark.parametrize("length", [1, 5, len(HELLO)])
async def test_tls_on_the_plain_port_is_told_so(length: int) -> None:
    async with serving() as server:
        answer = await exchange(server.port, HELLO[:length])
        assert statuses(answer) == [400]
        assert b"you sent TLS" in answer
        assert b"\r\nConnection: close\r\n" in answer


async def test_tls_behind_a_request_is_only_garbage() -> None:
    async with serving() as server:
        assert statuses(await exchange(server.port, BEHIND + HELLO, finish=True)) == [200, 400]


async def test_random_bytes() -> None:
    """The answer is a refusal, and no answer at all where nothing came that could be one."""
    source = random.Random(11)
    async with serving() as server:
        for _ in range(300):
            data = source.randbytes(source.choice([1, 2, 10, 100, 5000]))
            answer = await exchange(server.port, data, finish=True)
            assert statuses(answer) == [400], data
        assert not server.service.tasks


async def test_random_prefixes_of_requests_with_damage() -> None:
    source = random.Random(12)
    seed = _put(LENGTH_5, b"hello") + _put(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n") + BEHIND
    async with serving() as server:
        for _ in range(400):
            data = bytearray(seed[: source.randrange(1, len(seed))])
            for _ in range(source.randrange(4)):
                data[source.randrange(len(data))] = source.choice(b"\r\n \0:5aP\xff")
            found = statuses(await exchange(server.port, bytes(data), finish=True))
            assert len(found) <= 3
            # After the first refusal of what is no HTTP nothing is read any more.
            closing = {400, 408, 413, 414, 417, 431, 501, 505}
            assert not closing & set(found[:-1])


# ---- what we answer is well-formed too


@pytest.mark.parametrize(
    "header",
    [
        ("Location", "/a\r\nSet-Cookie: b"),
        ("Location", "/a\nb"),
        ("Location", "/a\rb"),
        ("Location\r\nX", "a"),
        ("X", "\0"),
        ("X", "\u20ac"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_response_cannot_be_split(
    header: tuple[str, str], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def split(request: Request) -> Response:
        return Response(200, [header], b"body")

    async with serving(split=split) as server, server.client() as client:
        answer = await client.request(method, "/split")
        assert answer.status == 500
        assert "set-cookie" not in answer.headers
        assert len(caplog.records) == 1
        assert (await client.request("GET", "/hello")).status == 200  # nothing is out of step
        assert [line[1] for line in server.lines] == [500, 200]


async def test_a_status_that_there_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server, server.client() as client:
        assert (await client.request("GET", "/status/799")).status == 500
        assert len(caplog.records) == 1


@pytest.mark.parametrize("failure", [ZeroDivisionError(), KeyError("s3cret"), TimeoutError()])
async def test_a_handler_that_fails(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Request) -> Response:
        raise failure

    async with serving(fail=fail) as server, server.client() as client:
        answer = await client.request("GET", "/fail")
        assert answer.refusal == (500, "UNKNOWN")
        assert b"s3cret" not in answer.body
        (record,) = caplog.records
        assert record.exc_info is not None
        assert (await client.request("GET", "/hello")).status == 200
        assert [line[1] for line in server.lines] == [500, 200]
