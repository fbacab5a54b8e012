"""Samples of a process' stacks by perf(1), and what each of them was working at."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

from bench.harness.flame import Stack

Work = Literal["receive", "hash", "send", "tls", "kernel", "python"]
"""`send`: to sockets and files. `kernel`: what else the kernel does. `python`: the rest."""

RATE: Final = 999
"""Samples for each second of CPU; not a divisor of anything that runs by the clock."""

INSTALL: Final = "perf is not there: apt install linux-perf (Debian), linux-tools-generic (Ubuntu)"

_FRAME: Final = re.compile(r"^\s+[0-9a-f]+ (.*) \((.*)\)$")
_RECEIVE: Final = re.compile(r"sys_read|sys_recv|_recvmsg|sock_read_iter")
_SEND: Final = re.compile(r"sys_p?write|sys_send|_sendmsg|sock_write_iter|vfs_write|splice")
_HASH: Final = re.compile(r"sha256|sha512|blocks_sha|_lanes")
_TLS: Final = re.compile(r"aes|gcm|ghash|chacha|poly1305|^SSL_|^ssl3?_|^tls|^EVP_", re.IGNORECASE)
_TLS_FILES: Final = re.compile(r"libssl|libcrypto|/_ssl\.")


class Frame(NamedTuple):
    """A function, and the file that it is in."""

    symbol: str
    file: str

    @property
    def in_kernel(self) -> bool:
        """Whether it is the kernel's, or one of its modules'."""
        return self.file.startswith("[") and self.file not in ("[unknown]", "[vdso]")


def work_of(frames: list[Frame]) -> Work:
    """What a stack, the innermost frame first, was working at."""
    kernel = [frame.symbol for frame in frames if frame.in_kernel]
    # From the system call inwards: sending runs the receiving side of the loopback device too.
    for symbol in reversed(kernel):
        if _RECEIVE.search(symbol):
            return "receive"
        if _SEND.search(symbol):
            return "send"
    if kernel:
        return "kernel"
    innermost = frames[0]
    if _HASH.search(innermost.symbol):
        return "hash"
    if _TLS_FILES.search(innermost.file) or _TLS.search(innermost.symbol):
        return "tls"
    return "python"


def parse(text: str) -> Iterator[list[Frame]]:
    """The stacks that `perf script` writes, each with its innermost frame first."""
    for block in text.split("\n\n"):
        matches = map(_FRAME.match, block.splitlines())
        frames = [Frame(match[1], match[2]) for match in matches if match]
        if frames:
            yield frames


@dataclass(slots=True)
class Samples:
    """What was seen."""

    works: Counter[Work] = field(default_factory=Counter)
    stacks: Counter[Stack] = field(default_factory=Counter)
    """Below what they work at, for a flame graph."""
    trouble: str = ""
    """Why there are none."""

    def add(self, frames: list[Frame]) -> None:
        """Count one stack."""
        work = work_of(frames)
        self.works[work] += 1
        # Where code keeps no frame pointers the way outwards ends in nonsense.
        known = [frame for frame in frames if frame.symbol != "[unknown]"]
        names = [f"{frame.symbol} ({Path(frame.file).name.strip('[]')})" for frame in known]
        self.stacks[(work, *reversed(names))] += 1


@contextmanager
def sampled(pid: int, folder: Path) -> Iterator[Samples]:
    """Samples of process `pid`, all its threads, from now until the block ends; filled in then."""
    samples = Samples()
    perf = shutil.which("perf")
    if perf is None:
        samples.trouble = INSTALL
        yield samples
        return
    data = folder / "perf.data"
    record = subprocess.Popen(
        [
            *(perf, "record", "--quiet", "--call-graph=fp", f"--freq={RATE}"),
            *("--event=cpu-clock", f"--output={data}", f"--pid={pid}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield samples
    finally:
        record.send_signal(signal.SIGINT)
        _, complaint = record.communicate()
    command = [perf, "script", "--no-inline", "--fields=comm,ip,sym,dso", f"--input={data}"]
    script = subprocess.run(command, capture_output=True, text=True, check=False)
    for frames in parse(script.stdout):
        samples.add(frames)
    if not samples.works:
        samples.trouble = f"perf saw nothing: {(complaint or script.stderr).strip()}"
