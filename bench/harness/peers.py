"""distribution (the CNCF's registry, docker.io/library/registry) beside Epoch, on the same stores.

Built by Go at a pinned version when it is first needed; where there is no Go, rows about it are
left out.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from bench.harness.build import BENCH
from bench.harness.process import Process
from bench.harness.servers import ACCESS_KEY, BUCKET, SECRET_KEY, SERVER_CPU, Tuning

_PACKAGE: Final = "github.com/distribution/distribution/v3/cmd/registry"
VERSION: Final = "3.1.2"

_CONFIGURATION: Final = """version: 0.1
log: {level: info, fields: {service: registry}}
storage:
  delete: {enabled: true}
  redirect: {disable: true}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: "127.0.0.1:0", relativeurls: true}
"""


@cache
def distribution() -> Path | None:
    """The program, built if need be; None where that cannot be done, which is then told once."""
    path = BENCH / "bin" / f"distribution-{VERSION}"
    if path.exists():
        return path
    if shutil.which("go") is None:
        told = (
            f"no distribution {VERSION}, so no rows beside it: it is built by Go (apt-get install"
        )
        print(told, "golang, or https://go.dev/dl/)", file=sys.stderr)
        return None
    folder = path.with_name("distribution.build")
    environment = {**os.environ, "GOBIN": str(folder), "GOFLAGS": "", "CGO_ENABLED": "0"}
    built = subprocess.run(
        ["go", "install", f"{_PACKAGE}@v{VERSION}"], env=environment, check=False
    )
    if built.returncode:
        print(f"distribution {VERSION} cannot be built: no rows beside it", file=sys.stderr)
        return None
    (folder / "registry").rename(path)
    folder.rmdir()
    return path


def start_distribution(store_port: int, tuning: Tuning) -> Process:
    """distribution in front of the S3 store on that port of 127.0.0.1."""
    return _start(
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


def start_distribution_on(folder: Path) -> Process:
    """distribution over a directory."""
    return _start({"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(folder)})


def _start(storage: Mapping[str, str]) -> Process:
    program = distribution()
    assert program is not None
    configuration = BENCH / "bin" / "distribution.yml"
    configuration.write_text(_CONFIGURATION)
    return Process(
        [program, "serve", configuration],
        cpu=SERVER_CPU,
        env={"OTEL_TRACES_EXPORTER": "none", **storage},
    )
