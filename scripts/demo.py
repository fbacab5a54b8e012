"""`make demo`: push and pull a large disk image with plain curl, and measure what the server did.

Starts `epoch serve` on a free port of 127.0.0.1 with the directory store, in `demo-data/`, and
removes all of it in the end, whatever happens. Needs curl, and three times the image's size of
free disk. Exit code 0: everything was as it should be.

    python scripts/demo.py [--mib 1024] [--epoch .venv/bin/epoch]
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
PROC = Path("/proc/self/stat").exists()
READY = re.compile(r" ready addr=(\S+)")
WRONG = "sha256:" + hashlib.sha256(b"something else").hexdigest()


class Failed(Exception):
    """The demo did not go as it should; the text says how."""


@dataclass
class Server:
    """A running `epoch serve`, and what can be seen of it from outside."""

    process: subprocess.Popen[bytes]
    address: str
    data: Path
    scratch: Path
    open_files: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    """Regular files that it was seen to have open: inode to name and largest size."""

    def cpu(self) -> float:
        """Seconds of CPU so far, user and system; 0 where there is no /proc."""
        if not PROC:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, name: str) -> float:
        """MiB of resident memory: `VmRSS` now, `VmHWM` at its peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    def look_at_open_files(self) -> None:
        """Remember which files it has open now, deleted ones and anonymous ones included."""
        if not PROC:
            return
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(OSError):
                info = entry.stat()
                if stat.S_ISREG(info.st_mode):
                    key = (info.st_dev, info.st_ino)
                    seen = self.open_files.get(key, ("", 0))[1]
                    self.open_files[key] = (str(entry.readlink()), max(seen, info.st_size))


@dataclass
class Step:
    """One transfer, as curl and /proc saw it."""

    name: str
    status: str
    seconds: float
    cpu: float


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def make_image(path: Path, mib: int) -> str:
    """Write `mib` MiB that do not compress; their digest.

    One random block, turned anew each time: no compressor looks back that far, and it is as fast
    as memory.
    """
    base = os.urandom(16 * MIB)
    digest = hashlib.sha256()
    told = time.monotonic()
    with path.open("wb") as image:
        for done in range(0, mib, 16):
            turn = random.randrange(len(base))
            block = (base[turn:] + base[:turn])[: (mib - done) * MIB]
            digest.update(block)
            image.write(block)
            if time.monotonic() - told > 2:
                told = time.monotonic()
                say(f"    {done} of {mib} MiB")
    return f"sha256:{digest.hexdigest()}"


def sizes(*folders: Path) -> dict[Path, int]:
    """Every file below `folders`, with its size."""
    return {
        Path(base, name): Path(base, name).lstat().st_size
        for folder in folders
        for base, _, names in os.walk(folder)
        for name in names
    }


def environment(scratch: Path) -> dict[str, str]:
    """Ours without settings of Epoch, and with every usual place for spool files in `scratch`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EPOCH_")}
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP", "HOME"), str(scratch))
    return {**kept, **places, "EPOCH_S3_ENV_FILE": os.devnull}


@contextmanager
def serving(epoch: Path, work: Path) -> Iterator[Server]:
    """Start the server and wait for its ready line; whatever happens, it is gone in the end."""
    data, scratch, log = work / "data", work / "scratch", work / "server.log"
    scratch.mkdir()
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [epoch, "serve", "--addr", "127.0.0.1:0", "--data-dir", data],
            cwd=scratch,
            env=environment(scratch),
            stderr=stderr,
            start_new_session=True,
        )
    try:
        yield Server(process, wait_until_ready(process, log), data, scratch)
    except Failed:
        say("\nThe last lines of the server's log:")
        say("".join(f"    {line}\n" for line in log.read_text().splitlines()[-20:]))
        raise
    finally:
        process.kill()
        process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address in the ready line of `log`."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = READY.search(log.read_text(errors="replace"))
        if found:
            return found[1]
        if process.poll() is not None:
            raise Failed(f"the server ended at once, with exit code {process.returncode}")
        time.sleep(0.02)
    raise Failed("the server was not ready within 20 s")


def stop(server: Server) -> None:
    """SIGTERM; the server must end by itself, with exit code 0."""
    server.process.send_signal(signal.SIGTERM)
    try:
        code = server.process.wait(20)
    except subprocess.TimeoutExpired:
        raise Failed("the server was still there 20 s after SIGTERM") from None
    if code != 0:
        raise Failed(f"the server's exit code after SIGTERM was {code}, not 0")


def curl(
    name: str, server: Server, size: int, path: str, *arguments: str | Path, expect: str
) -> Step:
    """Run one transfer to its end, watching the server; `Failed` unless its status is `expect`."""
    before, told = server.cpu(), time.monotonic()
    start = told
    url = f"http://{server.address}/v2/demo/vm/blobs/{path}"
    # -q: the user's own settings for curl are not part of this.
    command = ["curl", "-q", "-sS", "--noproxy", "*", "-w", "%{http_code} %{time_total}"]
    process = subprocess.Popen([*command, *arguments, url], stdout=subprocess.PIPE, text=True)
    try:
        while True:
            try:
                output = process.communicate(timeout=0.05)[0]
                break
            except subprocess.TimeoutExpired:
                server.look_at_open_files()
                if time.monotonic() - told > 2:
                    told = time.monotonic()
                    say(f"    {told - start:.0f} s so far")
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise Failed(f"{name}: curl ended with exit code {process.returncode}")
    status, seconds = output.split()
    if status != expect:
        raise Failed(f"{name}: the status was {status}, not {expect}")
    step = Step(name, status, float(seconds), server.cpu() - before)
    say(f"    {status} in {step.seconds:.2f} s, {size / 1e6 / step.seconds:.0f} MB/s")
    return step


def check_files(server: Server, before: dict[Path, int], digest: str, size: int) -> Path:
    """`Failed` unless the blob, whole, is the only file that grew; where it lies."""
    after = sizes(server.data, server.scratch)
    grown = [path for path, length in after.items() if length > before.get(path, 0)]
    blobs = [path for path in grown if digest.partition(":")[2] in path.name]
    if len(blobs) != 1 or after[blobs[0]] != size:
        raise Failed(f"the blob is not there once and whole: {[str(path) for path in blobs]}")
    others = [str(path) for path in grown if path != blobs[0]]
    if others:
        raise Failed(f"other files grew too: {', '.join(others)}")
    blob = blobs[0].stat()
    for key, (name, length) in server.open_files.items():
        if key != (blob.st_dev, blob.st_ino) and length > MIB and Path(name) not in before:
            raise Failed(f"the server held {length} bytes in another file: {name}")
    return blobs[0]


def run(epoch: Path, work: Path, mib: int) -> None:
    """The demo itself; `Failed` at the first thing that is wrong."""
    size, image, copy, answer = mib * MIB, work / "disk.img", work / "pulled.img", work / "answer"
    say(f"  Making a disk image of {mib} MiB that does not compress")
    digest = make_image(image, mib)
    with serving(epoch, work) as server:
        idle = server.memory("VmRSS") if PROC else 0.0
        say(f"  Server at http://{server.address}, storing in {server.data}")
        before = sizes(server.data, server.scratch)
        say(f"  Pushing it as demo/vm {digest}")
        steps = [curl("push", server, size, digest, "-T", image, "-o", answer, expect="201")]
        blob = check_files(server, before, digest, size)
        peak = server.memory("VmHWM") if PROC else 0.0
        say("  Pulling it back, and comparing byte for byte")
        steps.append(curl("pull", server, size, digest, "-o", copy, expect="200"))
        if not filecmp.cmp(image, copy, shallow=False):
            raise Failed("what was pulled is not what was pushed")
        say("  Pushing it under a wrong digest, which must be refused")
        stored = sizes(server.data, server.scratch)
        name = "push, wrong digest"
        steps.append(curl(name, server, size, WRONG, "-T", image, "-o", answer, expect="400"))
        if "DIGEST_INVALID" not in answer.read_text():
            raise Failed(f"the refusal is not DIGEST_INVALID: {answer.read_text()[:200]}")
        if sizes(server.data, server.scratch) != stored:
            raise Failed("the refused push has changed the stored files")
        overall = server.memory("VmHWM") if PROC else 0.0
        stop(server)
    report(steps, size, blob.relative_to(work))
    if PROC:
        say(
            f"  Memory of the server: idle {idle:.0f} MiB, peak in the push {peak:.0f} MiB, "
            f"in all {overall:.0f} MiB"
        )


def report(steps: list[Step], size: int, blob: Path) -> None:
    """Print the table."""
    say(f"\n  {'':<22} {'status':>6} {'seconds':>8} {'MB/s':>6}  {'server CPU s/GB':>15}")
    for step in steps:
        cpu = f"{step.cpu / (size / 1e9):.2f}" if PROC else "-"
        rate = size / 1e6 / step.seconds
        say(f"  {step.name:<22} {step.status:>6} {step.seconds:8.2f} {rate:6.0f}  {cpu:>15}")
    say(f"\n  The only file that grew: {blob}")
    say("  The pulled image is the pushed one, byte for byte; the server ended with exit code 0.")


def interrupted(_signal: int, _frame: object) -> NoReturn:
    """SIGTERM cleans up as Ctrl-C does."""
    raise KeyboardInterrupt


def guarded(body: Callable[[Path], None]) -> int:
    """Run `body` in a folder that is removed afterwards; the exit code."""
    parent = ROOT / "demo-data"
    parent.mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    try:
        body(work)
    except Failed as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything is stopped and removed.", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # another demo runs
            parent.rmdir()
    say("  OK")
    return 0


def main() -> int:
    """Read the arguments, look for what is needed, run."""
    parser = argparse.ArgumentParser(description="Push and pull a large image, and measure it.")
    parser.add_argument("--mib", type=int, default=1024, help="size of the image (default: 1024)")
    parser.add_argument("--epoch", type=Path, default=ROOT / ".venv/bin/epoch", help="the program")
    arguments = parser.parse_args()
    if not shutil.which("curl"):
        print("FAILED: the demo needs curl; install it, please.", file=sys.stderr)
        return 1
    if not arguments.epoch.exists():
        print(f"FAILED: {arguments.epoch} is not there; run `make setup`.", file=sys.stderr)
        return 1
    free = shutil.disk_usage(ROOT).free // MIB
    if free < 3.1 * arguments.mib:
        print(f"FAILED: {free} MiB of disk are free in {ROOT}; try --mib 64.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, interrupted)
    say("Epoch demo: curl pushes and pulls a disk image; the store is a directory.")
    return guarded(lambda work: run(arguments.epoch.absolute(), work, arguments.mib))


if __name__ == "__main__":
    sys.exit(main())
