"""Other registries beside Epoch, on the same stores.

distribution (the CNCF's registry, docker.io/library/registry) is built by Go at a pinned version
when it is first needed. zot is in no package registry: `BENCH_ZOT=/path/to/zot` names a program
that somebody has built. Rows about what is not there are left out.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

from bench.harness.build import BENCH
from bench.harness.process import Process, ProcessFailed, free_ports
from bench.harness.servers import ACCESS_KEY, BUCKET, SECRET_KEY, SERVER_CPU, Tuning

_PACKAGE: Final = "github.com/distribution/distribution/v3/cmd/registry"
_VERSION: Final = "3.1.2"
_START_SECONDS: Final = 30.0

_CONFIGURATION: Final = """version: 0.1
log: {level: info, fields: {service: registry}}
storage:
  delete: {enabled: true}
  redirect: {disable: true}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: "127.0.0.1:0", relativeurls: true}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another registry, and how it is started."""

    name: str
    version: str
    on_s3: Callable[[int, Tuning], Process]
    """In front of the S3 store on that port of 127.0.0.1."""
    on_directory: Callable[[Path], Process]


@cache
def peers() -> tuple[Peer, ...]:
    """Those that can be had here. What cannot is told once."""
    found = []
    if _distribution() is not None:
        found.append(
            Peer("distribution", _VERSION, _distribution_on_s3, _distribution_on_directory)
        )
    if (zot := os.environ.get("BENCH_ZOT")) is not None:
        told = subprocess.run([zot, "--version"], capture_output=True, text=True, check=True)
        commit = json.loads(told.stderr or told.stdout)["commit"]
        found.append(Peer("zot", commit or "unknown", _zot_on_s3, _zot_on_directory))
    return tuple(found)


@cache
def _distribution() -> Path | None:
    """The program, built if need be; None where that cannot be done."""
    path = BENCH / "bin" / f"distribution-{_VERSION}"
    if path.exists():
        return path
    if shutil.which("go") is None:
        told = (
            f"no distribution {_VERSION}, so no rows beside it: it is built by Go (apt-get install"
        )
        print(told, "golang, or https://go.dev/dl/)", file=sys.stderr)
        return None
    folder = path.with_name("distribution.build")
    environment = {**os.environ, "GOBIN": str(folder), "GOFLAGS": "", "CGO_ENABLED": "0"}
    built = subprocess.run(
        ["go", "install", f"{_PACKAGE}@v{_VERSION}"], env=environment, check=False
    )
    if built.returncode:
        print(f"distribution {_VERSION} cannot be built: no rows beside it", file=sys.stderr)
        return None
    (folder / "registry").rename(path)
    folder.rmdir()
    return path


def _distribution_on_s3(store_port: int, tuning: Tuning) -> Process:
    return _start_distribution(
        {
            "REGISTRY_STORAGE_S3_REGION": "us-east-1",
            "REGISTRY_STORAGE_S3_REGIONENDPOINT": f"http://127.0.0.1:{store_port}",
            "REGISTRY_STORAGE_S3_FORCEPATHSTYLE": "true",
            "REGISTRY_STORAGE_S3_SECURE": "false",
            "REGISTRY_STORAGE_S3_BUCKET": BUCKET,
            "REGISTRY_STORAGE_S3_ACCESSKEY": ACCESS_KEY,
            "REGISTRY_STORAGE_S3_SECRETKEY": SECRET_KEY,
            "REGISTRY_STORAGE_S3_CHUNKSIZE": str(tuning.part_size),
            "REGISTRY_STORAGE_S3_ROOTDIRECTORY": "/distribution",
        }
    )


def _distribution_on_directory(folder: Path) -> Process:
    return _start_distribution({"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(folder)})


def _start_distribution(storage: Mapping[str, str]) -> Process:
    program = _distribution()
    assert program is not None
    configuration = BENCH / "bin" / "distribution.yml"
    configuration.write_text(_CONFIGURATION)
    return Process(
        [program, "serve", configuration],
        cpu=SERVER_CPU,
        env={"OTEL_TRACES_EXPORTER": "none", **storage},
    )


def _zot_on_s3(store_port: int, tuning: Tuning) -> Process:
    driver = {
        "name": "s3",
        "rootdirectory": "/zot",
        "region": "us-east-1",
        "regionendpoint": f"http://127.0.0.1:{store_port}",
        "forcepathstyle": True,
        "secure": False,
        "bucket": BUCKET,
        "accesskey": ACCESS_KEY,
        "secretkey": SECRET_KEY,
        "chunksize": str(tuning.part_size),
    }
    return _start_zot({"rootDirectory": f"{gettempdir()}/bench-zot", "storageDriver": driver})


def _zot_on_directory(folder: Path) -> Process:
    return _start_zot({"rootDirectory": str(folder)})


def _start_zot(storage: Mapping[str, Any]) -> Process:
    """Without deduplication, for which it needs a database, and without garbage collection."""
    [port] = free_ports(1)
    configuration = BENCH / "bin" / f"zot-{port}.json"
    configuration.write_text(
        json.dumps(
            {
                "distSpecVersion": "1.1.1",
                "storage": {"dedupe": False, "gc": False, **storage},
                "http": {"address": "127.0.0.1", "port": str(port)},
                "log": {"level": "error"},
            }
        )
    )
    process = Process([os.environ["BENCH_ZOT"], "serve", configuration], cpu=SERVER_CPU, port=port)
    try:
        _await_answer(process)
    finally:
        configuration.unlink()
    return process


def _await_answer(process: Process) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        process.check()
        connection = HTTPConnection("127.0.0.1", process.port, timeout=5)
        try:
            connection.request("GET", "/v2/")
            connection.getresponse()
        except OSError as error:
            if time.monotonic() > deadline:
                process.stop()
                raise ProcessFailed(f"{process.command} does not answer: {error}") from error
            time.sleep(0.1)
        else:
            return
        finally:
            connection.close()
