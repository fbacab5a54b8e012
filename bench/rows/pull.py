"""Pulls over plain HTTP: from the store through the server beside a relay, and from a directory
beside sendfile."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.harness.blobs import GIB, block, digest
from bench.harness.build import BENCH, program
from bench.harness.process import Process
from bench.harness.pull import Source, compare
from bench.harness.row import Row
from bench.harness.servers import LOAD_CPU, SERVER_CPU, Tuning, start_epoch

_DIGEST = digest(GIB, 0)
_PATH = f"/v2/bench/blobs/{_DIGEST}"


def rows(runs: int) -> Iterator[Row]:
    """One stream and 16 from an S3 store, one from a directory."""
    yield _from_s3("GET of 1 GiB, S3", GIB, 1, runs)
    yield _from_s3("16 GETs of 128 MiB at once, S3", GIB // 8, 16, runs)
    with (
        _directory() as root,
        Process([program("relay"), f"--file={_blob(root)}"], cpu=SERVER_CPU) as base,
        _serve_directory(root) as server,
    ):
        sendfile, epoch = Source("sendfile", base, _PATH), Source("epoch", server, _PATH)
        values = compare(sendfile, epoch, GIB, 1, runs)
        detail = _figures(sendfile, epoch)
        yield Row(7, "GET of 1 GiB, directory", "x sendfile", 1.05, values, detail=detail)


def _from_s3(what: str, size: int, streams: int, runs: int) -> Row:
    with (
        Process([program("discard_s3"), f"--get-size={size}"], cpu=LOAD_CPU) as store,
        Process([program("relay"), f"--store-port={store.port}"], cpu=SERVER_CPU) as base,
        start_epoch(store.port, Tuning()) as server,
    ):
        relay, epoch = Source("relay", base, _PATH), Source("epoch", server, _PATH)
        values = compare(relay, epoch, size, streams, runs)
        return Row(7, what, "x relay", 1.15, values, detail=_figures(relay, epoch))


def _figures(*sources: Source) -> dict[str, object]:
    return {each.name: each.medians() for each in sources}


def _blob(root: Path) -> Path:
    return root / "blobs" / "sha256" / _DIGEST.removeprefix("sha256:")


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory store that holds the blob; the page cache has all of it."""
    with TemporaryDirectory(prefix="bench-pull-") as folder:
        root = Path(folder)
        blob = _blob(root)
        blob.parent.mkdir(parents=True)
        with blob.open("wb") as file:
            for _ in range(GIB >> 20):
                file.write(block())
            file.seek(-8, os.SEEK_END)
            file.write(bytes(8))
        yield root
        shutil.rmtree(root / "blobs")


def _serve_directory(root: Path) -> Process:
    return Process(
        [sys.executable, "-m", "epoch", "serve", "--addr", "127.0.0.1:0", "--data-dir", root],
        cpu=SERVER_CPU,
        env={"PYTHONPATH": str(BENCH.parent / "src"), "EPOCH_S3_ENV_FILE": os.devnull},
    )
