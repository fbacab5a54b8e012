"""The S3 store over TLS, whose bodies take another way out."""

from __future__ import annotations

import random
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from epoch.store.base import Multipart, StoreError
from epoch.store.s3 import S3Store
from tests.contract.stub import Call, serve

DATE = "Sat, 01 Nov 2025 10:00:00 GMT"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `localhost` that signs itself, with its key beside it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no `openssl` program")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "certificate.pem"


def server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


async def test_part_and_read(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(random.Random(1).randbytes(6_000_000))

    async def script(call: Call) -> None:
        if call.number == 0:
            await call.body(1_000_000)
            call.reset()
            return
        await call.body()
        body = bytes(data) if call.method == "GET" else b""
        await call.answer(200, body, ETag='"e"', Last_Modified=DATE)

    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    async with serve(script, server_side(certificate)) as stub:
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


async def test_certificate_that_is_not_trusted(certificate: Path) -> None:
    async def script(call: Call) -> None:
        await call.answer(200)

    async with serve(script, server_side(certificate)) as stub:
        store = S3Store(stub.settings)
        with pytest.raises(StoreError, match="certificate is not trusted"):
            await store.check()
        await store.close()
    assert stub.calls == []
