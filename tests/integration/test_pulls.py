"""Blobs come back whole, whichever way their bytes take: small, large, in part, many at once."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from email.parser import BytesParser

import pytest

from epoch.config import MIB
from epoch.metrics import metrics
from tests.tools.client import Answer, Client, digest_of, get_blob, put_blob
from tests.tools.running import Running

DATA = random.Random(7).randbytes(12 * MIB)


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1, 12 * MIB])
async def test_one_connection_pulls_again_and_again(running: Running, size: int) -> None:
    data = DATA[-size:]
    digest = digest_of(data)
    target = f"/v2/a/b/blobs/{digest}"
    assert (await put_blob(running.port, data)).status == 201
    before = metrics.bytes_sent
    async with Client(running.port) as client:
        for _ in range(3):
            answer = await client.request("GET", target)
            assert (answer.status, answer.digest) == (200, digest)
        head = await client.request("HEAD", target)
        assert head.headers["content-length"] == str(size)
    assert metrics.bytes_sent - before == 3 * size


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 12 * MIB - 1), (5, MIB + 4), (5, MIB + 5), (7 * MIB, 12 * MIB)]
)
async def test_ranges(running: Running, start: int, stop: int) -> None:
    digest = digest_of(DATA)
    assert (await put_blob(running.port, DATA)).status == 201
    answer = await get_blob(running.port, digest, f"Range: bytes={start}-{stop - 1}")
    assert answer.status == 206
    assert answer.digest == digest_of(DATA[start:stop])


async def test_many_pulls_at_once(running: Running) -> None:
    blobs = [DATA[number : number + 4 * MIB] for number in range(4)]
    digests = [digest_of(blob) for blob in blobs]
    for blob in blobs:
        assert (await put_blob(running.port, blob)).status == 201
    answers = await asyncio.gather(*(get_blob(running.port, digest) for digest in digests * 8))
    assert [answer.digest for answer in answers] == digests * 8


def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """The Content-Range and the bytes of each part, by another parser than ours."""
    kind = answer.headers["content-type"]
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + answer.body)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    found = []
    for part in message.get_payload():
        assert not isinstance(part, str)
        assert part.get_content_type() == "application/octet-stream"
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        found.append((part["Content-Range"], payload))
    return found


TEXT = b"".join(b"line %08d of a blob that an email parser takes\r\n" % at for at in range(30_000))
"""As a body of an email, which the parser that judges us reads, must be."""


@pytest.mark.parametrize(
    "asked",
    [
        [(0, 10), (100, 200)],
        [(500_000, 500_001), (0, 1)],
        [(at * 40_000, at * 40_000 + 39_000) for at in range(32)],
        [(0, 700_000), (700_001, len(TEXT))],
    ],
)
async def test_several_ranges(running: Running, asked: list[tuple[int, int]]) -> None:
    digest = digest_of(TEXT)
    assert (await put_blob(running.port, TEXT)).status == 201
    header = "Range: bytes=" + ", ".join(f"{start}-{stop - 1}" for start, stop in asked)
    async with Client(running.port) as client:
        for _ in range(2):  # on one connection: the length is exact
            answer = await client.request("GET", f"/v2/a/b/blobs/{digest}", None, header)
            assert answer.status == 206
            assert "content-range" not in answer.headers
            assert parts_of(answer) == [
                (f"bytes {start}-{stop - 1}/{len(TEXT)}", TEXT[start:stop]) for start, stop in asked
            ]
        head = await client.request("HEAD", f"/v2/a/b/blobs/{digest}", None, header)
        assert (head.status, head.headers["content-length"]) == (200, str(len(TEXT)))
        one = await client.request("GET", f"/v2/a/b/blobs/{digest}", None, "Range: bytes=1-4,3-9")
        assert (one.status, one.headers["content-range"]) == (206, f"bytes 1-9/{len(TEXT)}")
        assert one.body == TEXT[1:10]
        none = await client.request(
            "GET", f"/v2/a/b/blobs/{digest}", None, "Range: bytes=9999999-,-0"
        )
        assert (none.status, none.headers["content-range"]) == (416, f"bytes */{len(TEXT)}")


async def test_several_ranges_by_curl(running: Running) -> None:
    if (curl := shutil.which("curl")) is None:
        pytest.skip("no curl here")
    digest = digest_of(DATA)
    assert (await put_blob(running.port, DATA)).status == 201
    process = await asyncio.create_subprocess_exec(
        curl,
        "--silent",
        "--show-error",
        "--fail",
        "--include",
        "--range",
        "0-99,5000000-7999999",
        f"http://127.0.0.1:{running.port}/v2/a/b/blobs/{digest}",
        stdout=asyncio.subprocess.PIPE,
    )
    wire, _ = await process.communicate()
    assert process.returncode == 0
    head, _, body = wire.partition(b"\r\n\r\n")
    boundary = re.search(rb"multipart/byteranges; boundary=([0-9a-f]{32})\r\n", head)
    assert boundary is not None
    first, second, end = body.split(b"--" + boundary[1])[1:]
    assert end == b"--\r\n"
    for part, data in ((first, DATA[:100]), (second, DATA[5_000_000:8_000_000])):
        assert part.partition(b"\r\n\r\n")[2] == data + b"\r\n"
