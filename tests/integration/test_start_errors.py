"""What stops a start against a bucket, as its user sees it: one line, exit code 1, in time."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from epoch.config import S3Settings
from epoch.store.s3.store import S3Store
from tests.tools.server import environment

NOWHERE = S3Settings(
    endpoint="127.0.0.1:1",
    access_key="a-key",
    secret_key="a-secret-that-must-not-show",
    bucket="images",
    secure=False,
)


def fails(
    store: S3Settings | Path,
    addr: str = "127.0.0.1:0",
    before: Sequence[str] = (),
    **variables: str,
) -> tuple[str, float]:
    """The line that the start fails with, and its seconds. `before`: words before the command."""
    started = time.monotonic()
    done = subprocess.run(
        [*before, sys.executable, "-m", "epoch", "serve", "--addr", addr],
        env=environment(store, variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    seconds = time.monotonic() - started
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    # Warnings about the settings come before it.
    lines = [line for line in done.stderr.splitlines() if " warn " not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    if isinstance(store, S3Settings):
        assert store.secret_key not in done.stderr
    return lines[0], seconds


def test_missing_bucket(s3_settings: S3Settings) -> None:
    line, _ = fails(replace(s3_settings, bucket="no-such-bucket"))
    assert "NoSuchBucket" in line
    assert "EPOCH_S3_BUCKET" in line


def test_unknown_key(s3_settings: S3Settings) -> None:
    line, _ = fails(replace(s3_settings, access_key="unknown-key"))
    assert "InvalidAccessKeyId" in line
    assert "EPOCH_S3_ACCESS_KEY" in line


def test_wrong_secret(s3_settings: S3Settings) -> None:
    line, _ = fails(replace(s3_settings, secret_key="wrong-secret"))
    assert "SignatureDoesNotMatch" in line
    assert "EPOCH_S3_SECRET_KEY" in line


@pytest.mark.parametrize("secret", [b"", bytes(32), b"0123456789abcdef"])
def test_damaged_session_secret(s3_settings: S3Settings, tmp_path: Path, secret: bytes) -> None:
    (tmp_path / "_uploads").mkdir()
    (tmp_path / "_uploads" / "secret").write_bytes(secret)
    asyncio.run(_put(s3_settings, "_uploads/secret", secret))
    for place in (tmp_path, s3_settings):
        line, _ = fails(place)
        assert f"read _uploads/secret: it is damaged ({len(secret)} bytes)" in line
        assert "delete that object" in line


async def _put(settings: S3Settings, key: str, data: bytes) -> None:
    store = S3Store(settings)
    await store.put(key, data)
    await store.close()


def test_nothing_listens() -> None:
    line, seconds = fails(NOWHERE)
    assert "cannot connect to the store" in line
    assert "EPOCH_S3_ENDPOINT" in line
    assert seconds < 8


def test_silent_endpoint() -> None:
    """It accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        line, seconds = fails(replace(NOWHERE, endpoint=f"127.0.0.1:{port}"))
    assert "did not answer in time" in line
    assert seconds < 14


def test_unknown_host() -> None:
    line, seconds = fails(replace(NOWHERE, endpoint="no-such-host.invalid"))
    assert "not found" in line or "cannot connect" in line or "not answer" in line
    assert "EPOCH_S3_ENDPOINT" in line or "not answer" in line
    assert seconds < 14


def test_a_proxy_of_an_unknown_kind() -> None:
    elsewhere = replace(NOWHERE, endpoint="store.invalid", secure=True)
    line, seconds = fails(elsewhere, HTTPS_PROXY="socks5://me:proxy-secret@10.0.0.1:1080")
    assert "HTTPS_PROXY" in line
    assert "NO_PROXY" in line
    assert "proxy-secret" not in line
    assert seconds < 8


@contextmanager
def _answering(status: int, headers: Mapping[str, str], body: bytes) -> Iterator[int]:
    """A store that answers everything in one way: what a real one does only with luck."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", "clock differs"),
        (403, b"<Error><Code>AccessDenied</Code></Error>", "check its policy"),
        (301, b"<Error><Code>PermanentRedirect</Code></Error>", "EPOCH_S3_REGION"),
        (400, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>", "EPOCH_S3_REGION"),
    ],
)
def test_what_the_store_answers(status: int, body: bytes, advice: str) -> None:
    with _answering(status, {"Content-Type": "application/xml"}, body) as port:
        line, seconds = fails(replace(NOWHERE, endpoint=f"127.0.0.1:{port}"))
    assert advice in line
    assert seconds < 8


@pytest.mark.parametrize("call", ["link", "flock", "fsync"])
def test_a_file_system_without(call: str, tmp_path: Path) -> None:
    """As with SMB, gcsfuse and some NFS: it must not be the first push that finds it out."""
    refused = f"inject={call}{'at' if call == 'link' else ''}:error=EOPNOTSUPP"
    before = ["strace", "-D", "-f", "-q", "-o", "/dev/null", "-e", refused, "--"]
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    line, _ = fails(tmp_path / "store", before=before)
    assert f"refuses {call}(2)" in line
    assert "Operation not supported" in line
    assert "another file system, or a bucket" in line


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        line, _ = fails(tmp_path / "store", f"127.0.0.1:{port}")
    assert f"port {port} is in use" in line
