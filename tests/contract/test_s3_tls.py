"""The S3 store over TLS, whose bodies take another way out."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from epoch.store.base import Multipart, StoreError
from epoch.store.s3.store import S3Store
from tests.contract.stub import Call, serve
from tests.tools.authority import Authority

DATE = "Sat, 01 Nov 2025 10:00:00 GMT"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def server_side(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("store"))
    return context


async def test_part_and_read(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(random.Random(1).randbytes(6_000_000))

    async def script(call: Call) -> None:
        if call.number == 0:
            await call.body(1_000_000)
            call.reset()
            return
        await call.body()
        body = bytes(data) if call.method == "GET" else b""
        await call.answer(200, body, ETag='"e"', Last_Modified=DATE)

    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.path))
    async with serve(script, server_side(authority)) as stub:
        store = S3Store(stub.settings)
        await store.put_part(Multipart("k", "u"), 1, 0, data)
        expected = bytes(data)
        data.append(0)  # BufferError while a view of it is out
        data.pop()
        assert await store.get("k", len(data)) == expected
        await store.close()
    assert stub.calls[1].received == data
    assert stub.calls[1].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert "transfer-encoding" not in stub.calls[1].headers


async def test_certificate_that_is_not_trusted(authority: Authority) -> None:
    async def script(call: Call) -> None:
        await call.answer(200)

    async with serve(script, server_side(authority)) as stub:
        store = S3Store(stub.settings)
        with pytest.raises(StoreError, match="certificate is not trusted"):
            await store.check()
        await store.close()
    assert stub.calls == []


CHECK = """
import asyncio
from epoch.config import S3Settings, SettingsError
from epoch.store.base import StoreError
from epoch.store.s3.store import S3Store

async def main():
    try:
        store = S3Store(S3Settings("{endpoint}", "id", "secret", "bucket"))
    except SettingsError as error:
        return print("settings:", error)
    try:
        await store.check()
    except StoreError as error:
        print("store:", error)
    else:
        print("trusted")
    await store.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, "certificate is not trusted"),
        ({"SSL_CERT_FILE": "right.pem"}, "trusted"),
        ({"SSL_CERT_FILE": "wrong.pem"}, "certificate is not trusted"),
        ({"SSL_CERT_FILE": "missing.pem"}, "certificate is not trusted"),
        ({"AWS_CA_BUNDLE": "right.pem"}, "trusted"),
        ({"AWS_CA_BUNDLE": "right.pem", "SSL_CERT_FILE": "wrong.pem"}, "trusted"),
        ({"AWS_CA_BUNDLE": "wrong.pem", "SSL_CERT_FILE": "right.pem"}, "is not trusted"),
        ({"AWS_CA_BUNDLE": "missing.pem"}, "AWS_CA_BUNDLE: cannot read "),
        ({"AWS_CA_BUNDLE": "empty.pem"}, "empty.pem holds no certificate in PEM"),
    ],
)
async def test_whom_the_environment_trusts(
    tmp_path: Path, variables: dict[str, str], told: str
) -> None:
    """In a process of its own: OpenSSL's are read once."""
    right = Authority(tmp_path, "right")
    Authority(tmp_path, "wrong")
    (tmp_path / "empty.pem").touch()

    async def script(call: Call) -> None:
        await call.answer(200, b"<ListBucketResult/>")

    others = {k: v for k, v in os.environ.items() if k not in ("SSL_CERT_FILE", "AWS_CA_BUNDLE")}
    async with serve(script, server_side(right)) as stub:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHECK.replace("{endpoint}", stub.settings.endpoint)),
            env=others | {key: str(tmp_path / name) for key, name in variables.items()},
            stdout=subprocess.PIPE,
        )
        text = (await process.communicate())[0].decode().strip()
    if told == "trusted":
        assert text == told
    else:
        assert told in text
