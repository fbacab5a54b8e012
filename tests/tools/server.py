"""A real `epoch serve` in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from epoch.config import S3Settings

_READY: Final = re.compile(r" info ready addr=127\.0\.0\.1:(\d+) store=")
_START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 20.0


@contextmanager
def without_nohup() -> Iterator[None]:
    """Children that are started within take SIGHUP as usual: the tests may run under nohup(1)."""
    ours = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, ours)


def environment(store: S3Settings | Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a server over that store; none of ours that could tell it otherwise."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("EPOCH_", "AWS_"))}
    env |= {"EPOCH_S3_ENV_FILE": os.devnull, "PYTHONUNBUFFERED": "1"}
    if isinstance(store, S3Settings):
        env |= {
            "EPOCH_S3_ENDPOINT": store.url,
            "EPOCH_S3_BUCKET": store.bucket,
            "EPOCH_S3_ACCESS_KEY": store.access_key,
            "EPOCH_S3_SECRET_KEY": store.secret_key,
            "EPOCH_S3_REGION": store.region,
            "EPOCH_S3_PREFIX": store.prefix,
        }
    else:
        env["EPOCH_DATA_DIR"] = str(store)
    return env | dict(extra or {})


class Server:
    """The process. `port` is known once it is ready; the constructor waits for that.

    `before`: words put before the command, such as a wrapper that limits it. `module`: what is run,
    with the arguments of `epoch`.
    """

    def __init__(
        self,
        store: S3Settings | Path,
        extra: Mapping[str, str] | None = None,
        *,
        before: Sequence[str] = (),
        port: int = 0,
        module: str = "epoch",
    ) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile(prefix="epoch-log-")  # noqa: SIM115
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", module, "serve", "--addr", f"127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment(store, extra),
        )
        self.port = self._await_ready()
        self.start_seconds = time.perf_counter() - started
        """From the start of the process to its ready line, as seen by polling every 5 ms."""

    def _await_ready(self) -> int:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            found = _READY.search(self.log())
            if found is not None:
                return int(found[1])
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.log()
                self.kill()
                raise AssertionError(f"epoch serve did not become ready:\n{text}")
            time.sleep(0.005)

    def log(self) -> str:
        """All that it has written so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def memory(self) -> int:
        """Bytes resident now."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """The most bytes that were resident."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def terminate(self) -> None:
        """Ask it to end, without waiting."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def stop(self) -> None:
        """End it in order; AssertionError where that fails or where it had trouble before."""
        self.terminate()
        self.assert_ended_well()

    def assert_ended_well(self) -> None:
        """Wait for the end of one that was told to end."""
        try:
            code = self.wait()
            text = self.log()
            assert code == 0, f"exit code {code}:\n{text[-4000:]}"
            assert "Traceback" not in text, text[-8000:]
            assert "never retrieved" not in text, text[-8000:]
            assert text.rstrip().endswith(" info stopped"), text[-2000:]
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and forget it. Fine for one that has ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if not self._log.closed:
            self._log.close()
