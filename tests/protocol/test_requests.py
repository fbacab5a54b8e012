"""Requests that are in order: one, many, in pieces, with and without bodies."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest

from epoch.http.message import Request, Response
from tests.protocol.serve import Raw, digest_line, exchange, serving, statuses
from tests.tools.client import encode_chunk, pieces

HOST = b"Host: a\r\n"
CLOSE = b"GET /hello/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def put(path: str, body: bytes, *fields: str) -> bytes:
    return get(path, f"Content-Length: {len(body)}", *fields, method="PUT") + body


def put_chunked(path: str, chunks: list[bytes]) -> bytes:
    wire = get(path, "Transfer-Encoding: chunked", method="PUT")
    return wire + b"".join(map(encode_chunk, chunks)) + b"0\r\n\r\n"


async def test_one_request_after_another_on_one_connection() -> None:
    async with serving() as server, server.client() as client:
        for at in range(20):
            answer = await client.request("GET", f"/hello/{at}")
            assert (answer.status, answer.body) == (200, b"hello %d" % at)
            assert "connection" not in answer.headers
            assert answer.headers["date"].endswith(" GMT")
        assert len(server.service.connections) == 1
        assert server.lines == [(f"/hello/{at}", 200, 0, len(f"hello {at}")) for at in range(20)]


@pytest.mark.parametrize(
    ("request_line", "field", "stays"),
    [
        ("HTTP/1.1", "X: y", True),
        ("HTTP/1.1", "Connection: close", False),
        ("HTTP/1.0", "X: y", False),
        ("HTTP/1.0", "Connection: keep-alive", True),
    ],
)
async def test_who_keeps_a_connection(request_line: str, field: str, stays: bool) -> None:
    data = f"GET /hello {request_line}\r\nHost: a\r\n{field}\r\n\r\n".encode()
    async with serving() as server, Raw(server.port) as raw:
        await raw.send(data)
        first = await raw.receive()
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert (b"\r\nConnection: close\r\n" in first) is not stays
        if stays:
            await raw.send(CLOSE)
            assert (await raw.receive_all()).endswith(b"hello last")
        else:
            assert await raw.receive() == b""


@pytest.mark.parametrize("seed", range(8))
async def test_pipelines_are_answered_in_order(seed: int) -> None:
    """1 to 50 requests of all kinds in one go, cut anywhere: as many answers, in that order."""
    source = random.Random(seed)
    wire, expected = b"", []
    for at in range(source.randrange(1, 51)):
        body = source.randbytes(source.choice([0, 1, 100, 5000]))
        kind = source.randrange(6)
        if kind == 0:
            wire += get(f"/hello/{at}")
            expected.append(b"hello %d" % at)
        elif kind == 1:
            wire += put("/echo", body)
            expected.append(body)
        elif kind == 2:
            wire += put_chunked("/echo", [piece for piece in pieces(body, 700) if piece])
            expected.append(body)
        elif kind == 3:
            wire += b"\r\n" + put("/sink", body)
            expected.append(digest_line(body))
        elif kind == 4:
            wire += put_chunked("/sink", pieces(body, 3000))
            expected.append(digest_line(body))
        else:
            wire += get("/refuse/404/BLOB_UNKNOWN")
            expected.append(
                b'{"errors": [{"code": "BLOB_UNKNOWN", '
                b'"message": "blob unknown to this registry"}]}'
            )
    cuts = sorted({0, len(wire), *(source.randrange(len(wire)) for _ in range(5))})
    async with serving() as server, server.client() as client:
        for start, stop in pairwise(cuts):
            await client.send(wire[start:stop])
            await asyncio.sleep(0)
        for body in expected:
            assert (await client.answer()).body == body
        await client.send(CLOSE)
        assert (await client.answer()).body == b"hello last"
        assert await client.at_end()
        assert len(server.lines) == len(expected) + 1


async def test_nothing_is_read_after_connection_close() -> None:
    async with serving() as server:
        wire = await exchange(server.port, CLOSE + get("/hello/never") + put("/echo", b"never"))
        assert statuses(wire) == [200]
        assert len(server.lines) == 1


async def test_a_pipeline_runs_one_request_at_a_time() -> None:
    running = most = 0

    async def count(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return Response(200)

    async with serving(count=count) as server:
        wire = await exchange(server.port, get("/count") * 30 + CLOSE)
        assert statuses(wire) == [200] * 31
    assert most == 1


MIXED = (
    get("/hello/1")
    + put("/echo", b"a body of some length")
    + put_chunked("/sink", [b"in", b"several chunks"])
    + b"\r\n\r\n"
    + get("/hello/2", method="OPTIONS")
    + put("/sink", b"x")
    + get("/nowhere")
    + CLOSE
)


async def _without_dates(port: int, *segments: bytes) -> bytes:
    """Nor ids, which are new each time."""
    wire = await exchange(port, *segments)
    passing = (b"Date: ", b"X-Request-Id: ")
    return b"\r\n".join(line for line in wire.split(b"\r\n") if not line.startswith(passing))


async def test_a_split_at_each_byte_changes_nothing() -> None:
    async with serving() as server:
        whole = await _without_dates(server.port, MIXED)
        assert statuses(whole) == [200, 200, 200, 200, 200, 404, 200]
        answers = await asyncio.gather(
            *(_without_dates(server.port, MIXED[:at], MIXED[at:]) for at in range(1, len(MIXED)))
        )
        assert set(answers) == {whole}


async def test_one_byte_in_each_segment() -> None:
    async with serving() as server:
        whole = await _without_dates(server.port, MIXED)
        single = [MIXED[at : at + 1] for at in range(len(MIXED))]
        assert await _without_dates(server.port, *single) == whole


BROKEN = {
    "a bare LF": b"GET /hello HTTP/1.1\nHost: a\n\n",
    "a folded field": b"GET /hello HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "a broken chunk": put_chunked("/echo", [b"hello"]).replace(b"hello", b"hello!"),
    "an unknown method": b"BREW /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "LF after CR LF": b"\r\n\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "a second request that is broken": get("/hello/1") + b"GET /hello\r\n\r\n" + get("/hello/2"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_split_at_each_byte_changes_no_refusal(name: str) -> None:
    wire = BROKEN[name]
    async with serving() as server:
        whole = statuses(await exchange(server.port, wire))
        assert whole[-1] >= 400
        answers = await asyncio.gather(
            *(exchange(server.port, wire[:at], wire[at:]) for at in range(1, len(wire)))
        )
        assert {tuple(statuses(answer)) for answer in answers} == {tuple(whole)}


async def test_empty_lines_before_a_request() -> None:
    async with serving() as server:
        wire = await exchange(server.port, b"\r\n\r\n\r\n" + get("/hello/1") + b"\r\n" + CLOSE)
        assert statuses(wire) == [200, 200]


# ---- HEAD and statuses without a body


@pytest.mark.parametrize("path", ["/hello/a", "/stream/1000000"])
async def test_head_is_answered_like_get_but_for_the_body(path: str) -> None:
    async with serving() as server, server.client() as client:
        headed = await client.request("HEAD", path)
        got = await client.request("GET", path)
        assert headed.body == b""
        assert int(headed.headers["content-length"]) == len(got.body) > 0
        for answer in (headed, got):
            del answer.headers["date"], answer.headers["x-request-id"]
        assert (headed.status, headed.headers) == (got.status, got.headers)
        assert [line[3] for line in server.lines] == [0, len(got.body)]


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(status: int) -> None:
    async with serving() as server, server.client() as client:
        answer = await client.request("GET", f"/status/{status}")
        assert (answer.status, answer.body) == (status, b"")
        assert "content-length" not in answer.headers
        assert (await client.request("GET", "/hello")).body == b"hello "


async def test_an_error_to_head_has_no_body() -> None:
    async with serving() as server, server.client() as client:
        answer = await client.request("HEAD", "/refuse/404/BLOB_UNKNOWN")
        assert (answer.status, answer.body) == (404, b"")
        assert int(answer.headers["content-length"]) > 0
        assert (await client.request("GET", "/hello")).status == 200


# ---- half-close


@pytest.mark.parametrize(
    "wire",
    [get("/hello/x"), put("/echo", b"hello x"), put_chunked("/echo", [b"hello", b" x"])],
    ids=["GET", "PUT", "chunked"],
)
async def test_a_client_that_has_closed_its_side_is_answered(wire: bytes) -> None:
    async with serving() as server:
        answer = await exchange(server.port, wire, finish=True)
        assert answer.endswith(b"\r\n\r\nhello x")
        assert statuses(answer) == [200]
        answer = await exchange(server.port, wire * 5, finish=True)
        assert statuses(answer) == [200] * 5


@pytest.mark.parametrize(
    "wire",
    [
        put("/echo", b"hello")[:-1],
        put("/sink", b"hello")[:-5],
        put_chunked("/echo", [b"hello"])[:-1],
        put_chunked("/sink", [b"hello"])[:-9],
    ],
)
@pytest.mark.parametrize("before", [b"", get("/hello") * 3], ids=["", "pipelined"])
async def test_a_body_that_ends_too_early(wire: bytes, before: bytes) -> None:
    async with serving() as server:
        answer = await exchange(server.port, before + wire, finish=True)
        assert statuses(answer) == [200] * (len(before) and 3) + [400]
        assert b'"SIZE_INVALID"' in answer
        answer = await exchange(server.port, before, wire, finish=True)
        assert statuses(answer)[-1:] == [400]


@pytest.mark.parametrize("before", [b"", get("/hello"), put("/echo", b"hello")])
async def test_a_head_that_ends_too_early(before: bytes) -> None:
    async with serving() as server:
        for cut in (1, 10, 20):
            answer = await exchange(server.port, before + get("/hello")[:-cut], finish=True)
            assert statuses(answer) == [200] * bool(before) + [400]


async def test_a_connection_that_says_nothing() -> None:
    async with serving() as server:
        assert await exchange(server.port, finish=True) == b""
        assert server.lines == []


# ---- Expect


async def test_continue_is_sent_when_the_body_is_read() -> None:
    async with serving() as server, server.client() as client:
        for path in ("/echo", "/sink"):
            await client.send(get(path, "Content-Length: 5", "Expect: 100-continue", method="PUT"))
            await client.continued()
            await client.send(b"hello")
            answer = await client.answer()
            assert answer.status == 200
            assert "connection" not in answer.headers


async def test_continue_before_a_chunked_body() -> None:
    async with serving() as server, server.client() as client:
        head = get("/echo", "Transfer-Encoding: chunked", "Expect: 100-continue", method="PUT")
        await client.send(head)
        await client.continued()
        await client.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert (await client.answer()).body == b"hello"


@pytest.mark.parametrize("path", ["/ignore", "/refuse/401/UNAUTHORIZED"])
async def test_no_continue_where_the_body_is_not_read(path: str) -> None:
    head = get(path, "Content-Length: 5", "Expect: 100-continue", method="PUT")
    async with serving() as server:
        answer = await exchange(server.port, head)
        assert b"100 Continue" not in answer
        assert b"\r\nConnection: close\r\n" in answer
        assert len(statuses(answer)) == 1


async def test_no_continue_where_the_body_is_already_coming_or_empty() -> None:
    async with serving() as server:
        first = put("/echo", b"hello", "Expect: 100-continue")
        second = put("/echo", b"", "Expect: 100-continue")
        answer = await exchange(server.port, first + second + CLOSE)
        assert b"100 Continue" not in answer
        assert statuses(answer) == [200, 200, 200]


# ---- bodies


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 16384, 65535, 65536, 65537, 3_000_000])
async def test_bodies_reach_a_sink_whole(size: int, chunked: bool) -> None:
    body = random.Random(size).randbytes(size)
    async with serving() as server, server.client() as client:
        for _ in range(2):
            answer = await client.request("PUT", "/sink", pieces(body, 50_000) if chunked else body)
            assert answer.body == digest_line(body)
        assert server.lines == [("/sink", 200, size, len(answer.body))] * 2


@pytest.mark.parametrize("window", [1, 7, 65536])
async def test_windows_of_any_size(window: int) -> None:
    body = random.Random(window).randbytes(20_000)
    async with serving() as server, server.client() as client:
        server.window = window
        assert (await client.request("PUT", "/sink", body)).body == digest_line(body)
        chunks = pieces(body, 999)
        assert (await client.request("PUT", "/sink", chunks)).body == digest_line(body)


async def test_a_request_right_behind_a_chunked_body() -> None:
    chunks = [b"hello"] * 3
    async with serving() as server:
        wire = put_chunked("/sink", chunks) + put_chunked("/echo", chunks) + CLOSE
        answer = await exchange(server.port, wire)
        assert statuses(answer) == [200, 200, 200]
        assert digest_line(b"hello" * 3) in answer
        assert answer.endswith(b"hello last")


async def test_trailers_are_not_fields() -> None:
    seen: dict[str, str] = {}

    async def look(request: Request) -> Response:
        await request.body.read(100)
        seen.update(request.headers)
        return Response(200)

    async with serving(look=look) as server:
        head = get("/look", "Transfer-Encoding: chunked", "Trailer: X-Late", method="PUT")
        answer = await exchange(server.port, head + b"0\r\nX-Late: 1\r\nHost: b\r\n\r\n" + CLOSE)
        assert statuses(answer) == [200, 200]
    assert seen == {"host": "a", "transfer-encoding": "chunked", "trailer": "X-Late"}


async def test_a_body_is_read_once() -> None:
    async def twice(request: Request) -> Response:
        await request.body.read(100)
        with pytest.raises(RuntimeError, match="at most once"):
            await request.body.read(100)
        return Response(200)

    async with serving(twice=twice) as server:
        assert statuses(await exchange(server.port, put("/twice", b"hello") + CLOSE)) == [200, 200]
