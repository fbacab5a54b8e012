"""Checks that the installed Epoch works: its command, its extension, its server.

    python scripts/smoke.py

Runs with the Python that Epoch is installed into, and needs nothing else. Exit code 0: all is well.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

# The installed package is meant, not the one beside this file.
EPOCH = Path(sys.executable).parent / "epoch"
READY = re.compile(rb" ready addr=(\S+)")
START_SECONDS = 30
STOP_SECONDS = 30


def check_command() -> None:
    """`epoch --version` prints the version that is installed."""
    from importlib.metadata import version

    printed = subprocess.run([EPOCH, "--version"], check=True, capture_output=True, text=True)
    assert version("epoch-registry") in printed.stdout, printed.stdout


def check_extension() -> None:
    """The extension hashes as hashlib does, over all of its paths by length."""
    from epoch import _fastio

    for size in (0, 1, 63, 64, 65, 1 << 20):
        data = os.urandom(size)
        digest = _fastio.Sha256()
        digest.update(data)
        assert digest.hexdigest() == hashlib.sha256(data).hexdigest(), size
    print(f"{_fastio.__file__}: SHA-256 with {_fastio.sha256_implementation()}")


def check_server() -> None:
    """`epoch serve` starts, answers, and ends in order."""
    with tempfile.TemporaryDirectory(prefix="epoch-smoke-") as folder:
        log = Path(folder, "log")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EPOCH_")}
        with log.open("wb") as output:
            server = subprocess.Popen(
                [EPOCH, "serve", "--addr", "127.0.0.1:0", "--data-dir", Path(folder, "data")],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment | {"EPOCH_S3_ENV_FILE": os.devnull},
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not (ready := READY.search(log.read_bytes())):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            address = ready[1].decode()
            with urllib.request.urlopen(f"http://{address}/healthz", timeout=10) as answer:
                assert answer.status == 200
            server.terminate()
            assert server.wait(STOP_SECONDS) == 0, log.read_text()
        finally:
            server.kill()
            server.wait()


def main() -> None:
    """Run all checks."""
    check_command()
    check_extension()
    check_server()
    print(f"{EPOCH}: works")


if __name__ == "__main__":
    main()
