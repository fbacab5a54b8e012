"""A process under measurement: started on one core, ready when it says so, its CPU and memory."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

_READY: Final = re.compile(rb"(?:listening on |ready addr=)127\.0\.0\.1:(\d+)")
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens, for programs that cannot choose one."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class ProcessFailed(Exception):
    """A process did not start, or ended by itself. The text holds the end of what it printed."""


class Process:
    """A started program with what it costs, its children included.

    `cpu`: the core it runs on, None for any. `port`: what it says when it is ready, unless it is
    given; then the caller finds out when.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cpu: int | None,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        self._lines: deque[bytes] = deque(maxlen=40)
        self._ready = threading.Event()
        self._found = port
        with _on_cpu(cpu):
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = port if port is not None else self._await_port()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            for line in stream:
                self._lines.append(line)
                if self._found is None and (match := _READY.search(line)):
                    self._found = int(match[1])
                    self._ready.set()
        self._ready.set()

    def _await_port(self) -> int:
        self._ready.wait(_START_SECONDS)
        if self._found is None:
            self.stop()
            raise ProcessFailed(f"{self.command} is not ready: {self.output()}")
        return self._found

    def output(self) -> str:
        """The last lines that it printed."""
        return b"".join(self._lines).decode(errors="replace")

    def check(self) -> None:
        """`ProcessFailed` if it has ended."""
        if (code := self._popen.poll()) is not None:
            raise ProcessFailed(f"{self.command} ended with {code}: {self.output()}")

    def cpu_seconds(self) -> float:
        """User and system time so far, of all threads, ended ones too, and of all children.

        This is the clock that clock_getcpuclockid(3) names: nanoseconds, up to date even while the
        process runs, and equal to what getrusage(2) says at its end (`/proc/<pid>/stat` counts in
        ticks of 10 ms, and `/proc/<pid>/task/*/schedstat` forgets threads that ended).
        """
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in _tree(self.pid))

    def thread_seconds(self) -> dict[int, float]:
        """User and system time so far of each thread that runs, by its id."""
        paths = Path(f"/proc/{self.pid}/task").glob("*/schedstat")  # proc(5): nanoseconds first
        return {int(path.parent.name): int(path.read_text().split()[0]) / 1e9 for path in paths}

    def memory(self) -> int:
        """Bytes resident now."""
        return sum(_status(pid, "VmRSS") for pid in _tree(self.pid))

    def reset_peak(self) -> None:
        """Begin `peak_memory` anew (proc(5), clear_refs)."""
        for pid in _tree(self.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """The most bytes that were resident; with children, the sum of each one's most."""
        return sum(_status(pid, "VmHWM") for pid in _tree(self.pid))

    def stop(self) -> None:
        """Terminate it and wait; kill it where it does not end."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._reader.join(_STOP_SECONDS)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def _on_cpu(cpu: int | None) -> Iterator[None]:
    """What is started in this block, by this thread, runs on that core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cpu is None else {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _status(pid: int, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(match[1]) * 1024 if match else 0


def _tree(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    with contextlib.suppress(FileNotFoundError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _tree(int(child))
