"""How each server is started: one function each, so that another one can be put beside them."""

import json
import os
import ssl
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.harness.blobs import MIB
from bench.harness.build import BENCH, program
from bench.harness.certificate import Certificate
from bench.harness.process import Process

SERVER_CPU: Final = min(os.sched_getaffinity(0))
LOAD_CPU: Final = max(os.sched_getaffinity(0))
"""The server under test has a core to itself; the load and the store share another."""

ACCESS_KEY: Final = "akey"
SECRET_KEY: Final = "sk-secret-1"
BUCKET: Final = "bench"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is told to a server, in bytes. `receive_size` is told to the floor alone: 1 MiB is where
    it costs least (512 KiB 8 % more, 256 KiB 19 % more, 4 MiB the same)."""

    part_size: int = 16 * MIB
    budget: int = 256 * MIB
    receive_size: int = MIB
    lockstep: bool = False
    """Told to the floor: hash what all connections have received side by side."""
    one_by_one: bool = False
    """Epoch hashes no pushes side by side, whatever the CPU could."""
    workers: int = 1
    hash_threads: int = 0
    all_cores: bool = False
    """Epoch runs on any core, not on one alone, beside load and store."""


Start = Callable[[int, Tuning, Certificate | None], Process]
"""Starts a server in front of the store on that port of 127.0.0.1. With a certificate it speaks TLS
to clients and to the store."""


def start_floor(store_port: int, tuning: Tuning, certificate: Certificate | None = None) -> Process:
    """The floor; it takes pushes at any path that ends with the digest."""
    return Process(
        [
            program("floor", tls=certificate is not None),
            *_tls_options(certificate),
            *(["--store-tls"] if certificate else []),
            f"--store-port={store_port}",
            f"--part-size={tuning.part_size}",
            f"--recv-size={tuning.receive_size}",
            *(["--lockstep"] if tuning.lockstep else []),
        ],
        cpu=SERVER_CPU,
    )


def _tls_options(certificate: Certificate | None) -> list[str]:
    if certificate is None:
        return []
    return [f"--tls-cert={certificate.path}", f"--tls-key={certificate.key}"]


def start_epoch(store_port: int, tuning: Tuning, certificate: Certificate | None = None) -> Process:
    """`epoch serve` in front of a bucket."""
    return _serve(
        {
            "EPOCH_S3_ENDPOINT": f"127.0.0.1:{store_port}",
            "EPOCH_S3_ACCESS_KEY": ACCESS_KEY,
            "EPOCH_S3_SECRET_KEY": SECRET_KEY,
            "EPOCH_S3_BUCKET": BUCKET,
            "EPOCH_S3_SECURE": str(certificate is not None),
            "EPOCH_PART_SIZE": str(tuning.part_size),
            "EPOCH_BUFFER_BUDGET": str(tuning.budget),
            "EPOCH_WORKERS": str(tuning.workers),
            "EPOCH_HASH_THREADS": str(tuning.hash_threads),
            **_tls_environment(certificate),
        },
        cpu=None if tuning.all_cores else SERVER_CPU,
        program=_ONE_BY_ONE if tuning.one_by_one else ("-m", "epoch"),
    )


def start_epoch_on(folder: Path) -> Process:
    """`epoch serve` over a directory."""
    return _serve({"EPOCH_DATA_DIR": str(folder)})


_ONE_BY_ONE: Final = (
    "-c",
    "from epoch.upload import hashing; hashing.lanes_worthwhile = lambda: 0; "
    "from epoch.cli.main import main; main()",
)
"""There is no option for it: nobody would want it but to compare."""


def _serve(
    settings: Mapping[str, str],
    cpu: int | None = SERVER_CPU,
    program: Sequence[str] = ("-m", "epoch"),
) -> Process:
    """`epoch serve` from this checkout, with the Python that runs this."""
    source = str(BENCH.parent / "src")
    return Process(
        [sys.executable, *program, "serve", "--addr", "127.0.0.1:0"],
        cpu=cpu,
        env={
            "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
            "EPOCH_S3_ENV_FILE": os.devnull,
            **settings,
        },
    )


SERVERS: Final[dict[str, Start]] = {"floor": start_floor, "epoch": start_epoch}


def _tls_environment(certificate: Certificate | None) -> dict[str, str]:
    if certificate is None:
        return {}
    return {
        "EPOCH_TLS_CERT": str(certificate.path),
        "EPOCH_TLS_KEY": str(certificate.key),
        "AWS_CA_BUNDLE": str(certificate.path),
    }


def start_discard(certificate: Certificate | None = None) -> Process:
    """The S3 server that keeps nothing; with a certificate it speaks TLS."""
    binary = program("discard_s3", tls=certificate is not None)
    return Process([binary, *_tls_options(certificate)], cpu=LOAD_CPU)


def discard_stats(store: Process, certificate: Certificate | None = None) -> dict[str, int]:
    """What the discarding server has counted so far."""
    scheme = "https" if certificate else "http"
    trust = ssl.create_default_context(cafile=certificate.path) if certificate else None
    url = f"{scheme}://127.0.0.1:{store.port}/__stats"
    with urllib.request.urlopen(url, timeout=10, context=trust) as answer:
        counts: dict[str, int] = json.load(answer)
    return counts
