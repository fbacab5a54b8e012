"""The very requests that Epoch sends, held to what Google Cloud Storage accepts.

That store cannot be run in a test. What it refuses is documented: trailing checksums
(`aws-chunked`), `x-amz-checksum-*`, `x-amz-*` beside `x-goog-*`, a signed Accept-Encoding, `x-id`,
UploadPartCopy, and on part of its front ends the batch delete.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from epoch.config import S3Settings
from epoch.store.base import StoreError
from epoch.store.s3.store import S3Store
from tests.contract.recorder import Head, record

_PART = 5 * 1024 * 1024


async def _exercise(store: S3Store) -> None:
    await store.check()
    await store.put("small", b"x" * 1000)
    await store.put("empty", b"")
    await store.get("small", 1000)
    async with store.open("small", 10, 20) as reader:
        assert reader is not None
        assert b"".join([chunk async for chunk in reader]) == b"x" * 10
    await store.head("small")
    await store.head("missing")
    assert [info.key async for info in store.list("", "e")] == ["empty", "small"]
    upload = await store.create_multipart("big")
    parts = [
        await store.put_part(upload, 1, 0, bytes(_PART)),
        await store.put_part(upload, 2, _PART, b"end"),
    ]
    assert [found async for found, _ in store.list_multiparts("big")] == [upload]
    await store.complete_multipart(upload, parts)
    upload = await store.create_multipart("gone")
    await store.put_part(upload, 1, 0, b"part")
    await store.abort_multipart(upload)
    await store.move("big", "moved", _PART + 3)
    for key in ("small", "empty", "moved"):
        await store.delete(key)


@pytest.fixture
async def heads(s3_server: S3Settings, s3_settings: S3Settings) -> list[Head]:
    """Every request of one pass over the whole interface."""
    async with record(s3_server.endpoint) as recorder:
        settings = replace(s3_server, prefix=s3_settings.prefix, endpoint=recorder.endpoint)
        store = S3Store(settings)
        await _exercise(store)
        await store.close()
        return recorder.heads


async def test_requests(heads: list[Head]) -> None:
    assert len(heads) > 20
    for head in heads:
        _judge(head)
        if head.method == "PUT" and "x-amz-copy-source" not in head.headers:
            _judge_body(head)


def _judge(head: Head) -> None:
    headers = head.headers
    names = set(headers)
    where = f"{head.method} {head.target}: {sorted(names)}"
    assert "x-amz-trailer" not in names, where
    assert "content-encoding" not in names, where
    assert "transfer-encoding" not in names, where
    assert "expect" not in names, where
    assert not any(name.startswith("x-amz-checksum-") for name in names), where
    assert "x-amz-sdk-checksum-algorithm" not in names, where
    assert not any(name.startswith("x-goog-") for name in names), where
    assert not headers["x-amz-content-sha256"].startswith("STREAMING-"), where
    assert "x-id" not in head.query, where
    assert "delete" not in head.query, where
    assert not ("x-amz-copy-source" in names and "partNumber" in head.query), where
    authorization = headers["authorization"]
    assert authorization.startswith("AWS4-HMAC-SHA256 "), where
    signed = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert "host" in signed
    forbidden = {"accept-encoding", "user-agent", "amz-sdk-request", "amz-sdk-invocation-id"}
    assert not forbidden & set(signed), signed
    assert headers.get("accept-encoding", "identity") == "identity", where
    if head.method in ("PUT", "POST"):
        assert headers["content-length"].isdecimal(), where


def _judge_body(head: Head) -> None:
    assert head.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD", head
    if "partNumber" not in head.query:
        assert head.headers["content-type"] == "application/octet-stream", head


_EVERY_CALL = """
import asyncio, sys
from epoch.config import S3Settings
from epoch.store.s3.store import S3Store

async def main():
    store = S3Store(S3Settings(**{settings!r}))
    await store.check()
    await store.put("k", b"data")
    assert await store.get("k", 4) == b"data"
    assert [info.key async for info in store.list("")] == ["k"]
    upload = await store.create_multipart("m")
    await store.complete_multipart(upload, [await store.put_part(upload, 1, 0, b"data")])
    await store.abort_multipart(await store.create_multipart("n"))
    assert not [upload async for upload in store.list_multiparts("")]
    await store.move("m", "o", 4)
    await store.close()

asyncio.run(main())
sys.exit(any(name in sys.modules for name in ("aiobotocore", "botocore")))
"""


def test_no_call_needs_the_library(s3_settings: S3Settings) -> None:
    """It would take 0.2 s of the start, and 20 MB."""
    code = _EVERY_CALL.format(settings=asdict(s3_settings))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_bodies_are_sent_once(heads: list[Head]) -> None:
    sent = [int(head.headers["content-length"]) for head in heads if head.method == "PUT"]
    assert sorted(sent) == [0, 0, 3, 4, 1000, _PART]  # the other empty one: the copy of the move


def test_secret_is_in_no_text(s3_server: S3Settings) -> None:
    store = S3Store(s3_server)
    assert s3_server.secret_key not in store.description
    assert s3_server.secret_key not in repr(s3_server)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"bucket": "no-such-bucket"}, "EPOCH_S3_BUCKET"),
        ({"access_key": "nobody"}, "EPOCH_S3_ACCESS_KEY"),
        ({"secret_key": "wrong-secret-9b1"}, "EPOCH_S3_SECRET_KEY"),
    ],
)
async def test_check_names_what_is_wrong(
    s3_settings: S3Settings, wrong: dict[str, str], text: str
) -> None:
    store = S3Store(replace(s3_settings, **wrong))  # type: ignore[arg-type]
    try:
        with pytest.raises(StoreError, match=text) as caught:
            await store.check()
        with pytest.raises(StoreError):
            await store.head("any")
    finally:
        await store.close()
    assert "\n" not in str(caught.value)
    assert "wrong-secret-9b1" not in str(caught.value)
    assert s3_settings.secret_key not in str(caught.value)
