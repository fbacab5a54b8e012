"""Answers that come before the body has: the client sees them, whatever it is still sending."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from epoch.http import body, connection
from tests.protocol.serve import Raw, serving, statuses
from tests.tools.machine import curl

MIB = 1 << 20
REFUSALS = [(401, "UNAUTHORIZED"), (404, "NAME_UNKNOWN"), (413, "SIZE_INVALID")]
SIZE = 128 * MIB
refusals = pytest.mark.parametrize(("status", "code"), REFUSALS)


def _send_then_read(port: int, path: str, *, chunked: bool) -> bytes:
    """A client that looks for an answer only when all is sent, or when sending fails."""
    block = bytes(MIB)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {SIZE}"
    head = f"PUT {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        try:
            sock.sendall(head)
            for _ in range(SIZE // MIB):
                sock.sendall(b"%x\r\n%b\r\n" % (MIB, block) if chunked else block)
        except ConnectionError:
            pass
        answer = b""
        try:
            while data := sock.recv(65536):
                answer += data
        except ConnectionError:
            pass
        return answer


@refusals
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_reads_only_at_the_end(status: int, code: str, chunked: bool) -> None:
    async with serving() as server:
        for _ in range(3):
            path = f"/refuse/{status}/{code}"
            answer = await asyncio.to_thread(_send_then_read, server.port, path, chunked=chunked)
            assert statuses(answer) == [status]
            assert code.encode() in answer


async def test_an_answer_in_the_middle_of_a_body() -> None:
    """As when a digest is found to be stored already, or the limit is passed."""
    async with serving() as server:
        path = "/echo"  # takes 1 MiB
        for _ in range(3):
            answer = await asyncio.to_thread(_send_then_read, server.port, path, chunked=True)
            assert statuses(answer) == [413]


@refusals
async def test_http_client(status: int, code: str) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(SIZE // MIB):
            yield bytes(MIB)

    def push(port: int) -> tuple[int, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            with contextlib.suppress(ConnectionError):  # as urllib3: the answer may be there
                client.request(
                    "PUT", f"/refuse/{status}/{code}", body(), {"Content-Length": str(SIZE)}
                )
            response = client.getresponse()
            return response.status, response.read()
        finally:
            client.close()

    async with serving() as server:
        found, answer = await asyncio.to_thread(push, server.port)
        assert found == status
        assert code.encode() in answer


@refusals
@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
async def test_curl(status: int, code: str, expect: str, tmp_path: Path) -> None:
    body = tmp_path / "body"
    with body.open("wb") as file:
        file.truncate(SIZE)
    async with serving() as server:
        process = await asyncio.create_subprocess_exec(
            *curl(),
            "--silent",
            "--show-error",
            "--header",
            expect,
            "--upload-file",
            str(body),
            f"http://127.0.0.1:{server.port}/refuse/{status}/{code}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert code.encode() in output, errors
        assert server.lines[0][:2] == (f"/refuse/{status}/{code}", status)


async def test_no_answer_overtakes_a_small_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """containerd hangs where one does. The connection is then good for the next request."""
    monkeypatch.setattr(body, "SMALL_BODY_SECONDS", 20.0)
    async with serving() as server, Raw(server.port) as raw:
        for _ in range(2):
            await raw.send(
                b"PUT /refuse/403/DENIED HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
            )
            await raw.send(b"12345")
            await raw.send(b"6789")
            answer = await raw.receive()
            assert statuses(answer) == [403]
            assert b"close" not in answer.lower()


# ---- the end of it is bounded


async def test_no_more_than_a_bounded_rest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DRAIN_BYTES", 4 * MIB)
    async with serving() as server, Raw(server.port) as raw:
        head = f"PUT /refuse/403/DENIED HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
        await raw.send(head.encode())
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < SIZE:
                sent += await raw.send_what_fits(65536)
        assert 4 * MIB - 65536 <= sent < 16 * MIB
        assert statuses(await raw.receive_all()) == [403]


@pytest.mark.parametrize("rest", [b"", b"x"])
async def test_nobody_is_waited_for_long(rest: bytes) -> None:
    """Neither a client that is silent nor one that drips holds its connection open."""
    async with serving() as server, Raw(server.port) as raw:
        await raw.send(b"PUT /refuse/403/DENIED HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n")
        assert statuses(await raw.receive()) == [403]
        assert await raw.receive() == b""  # half-closed at once
        start = time.monotonic()
        while server.service.connections:
            if rest:
                try:
                    await raw.send(rest)
                except ConnectionError:
                    break
            await asyncio.sleep(0.01)
        assert connection.DRAIN_SECONDS / 2 < time.monotonic() - start < 2


async def test_a_client_that_closes_ends_it_at_once() -> None:
    async with serving() as server, Raw(server.port) as raw:
        await raw.send(b"PUT /refuse/403/DENIED HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n")
        assert statuses(await raw.receive()) == [403]
        raw.finish()
        start = time.monotonic()
        await server.until_quiet()
        assert time.monotonic() - start < connection.DRAIN_SECONDS
