"""One small request, again and again over a few connections: how many a second, how late."""

import json
import subprocess
from dataclasses import dataclass
from typing import Final

from bench.harness.build import program
from bench.harness.process import Process
from bench.harness.servers import LOAD_CPU

CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second, the 99th percentile of their latency, CPU that each cost the server."""

    per_second: float
    p99_ms: float
    cpu_ms: float


def request(process: Process, method: str, path: str, seconds: float) -> Rate:
    """Send the same request over all connections for so many seconds; every answer must be 200."""
    command = [
        *("taskset", "-c", str(LOAD_CPU), str(program("requests")), f"--port={process.port}"),
        *(f"--connections={CONNECTIONS}", f"--seconds={seconds}"),
        *(f"--method={method}", f"--path={path}"),
        "--header=Accept: application/vnd.oci.image.manifest.v1+json",
    ]
    before = process.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    cpu = process.cpu_seconds() - before
    process.check()
    if done.returncode:
        raise RuntimeError(f"requests failed: {done.stderr} {process.output()}")
    outcome = json.loads(done.stdout)
    if list(outcome["statuses"]) != ["200"]:
        raise RuntimeError(f"{method} {path}: {outcome['statuses']} {process.output()[-400:]}")
    answered = outcome["statuses"]["200"]
    return Rate(outcome["per_second"], outcome["p99"], cpu / answered * 1e3)
