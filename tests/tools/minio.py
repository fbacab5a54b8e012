"""Run the store's tests against a MinIO server: `python tests/tools/minio.py [pytest arguments]`.

Takes the `minio` program on PATH, or builds it with Go (some minutes, once) into the user's cache.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
BUCKET = "epoch-test"
ROOT = Path(__file__).resolve().parents[2]


def program() -> str:
    """The path of a MinIO server."""
    if found := shutil.which("minio"):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epoch" / VERSION
    built = cache / "minio"
    if not built.exists():
        if shutil.which("go") is None:
            sys.exit("neither `minio` nor `go` is on PATH: install one of them")
        print(f"building MinIO {VERSION} into {cache}", flush=True)
        subprocess.run(
            ["go", "install", f"github.com/minio/minio@{VERSION}"],
            check=True,
            env={**os.environ, "GOBIN": str(cache)},
        )
    return str(built)


def wait(process: subprocess.Popen[bytes], url: str) -> None:
    """Until the server says that it is ready."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{url}/minio/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"MinIO does not start: {error}")
        time.sleep(0.1)


def main() -> int:
    """Start, test, stop; the exit code is that of pytest."""
    secret = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="epoch-minio-") as home:
        data = Path(home) / "data"
        # A folder of a single-drive server is a bucket.
        (data / BUCKET).mkdir(parents=True)
        process = subprocess.Popen(
            [program(), "server", str(data), "--address", f"127.0.0.1:{port}", "--quiet"],
            env={
                **os.environ,
                "HOME": home,
                "MINIO_ROOT_USER": "epoch-test-key",
                "MINIO_ROOT_PASSWORD": secret,
                "MINIO_BROWSER": "off",
            },
        )
        try:
            wait(process, url)
            command = [sys.executable, "-m", "pytest", "tests/contract", *sys.argv[1:]]
            return subprocess.run(
                command,
                cwd=ROOT,
                check=False,
                env={
                    **os.environ,
                    "EPOCH_TEST_S3_ENDPOINT": url,
                    "EPOCH_TEST_S3_ACCESS_KEY": "epoch-test-key",
                    "EPOCH_TEST_S3_SECRET_KEY": secret,
                    "EPOCH_TEST_S3_BUCKET": BUCKET,
                },
            ).returncode
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
