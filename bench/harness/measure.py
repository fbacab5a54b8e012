"""One push, or many at once, and what it cost the server."""

import json
import os
import statistics
import subprocess
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bench.harness.blobs import digest
from bench.harness.build import program
from bench.harness.process import Process
from bench.harness.servers import LOAD_CPU

GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class Load:
    """What is pushed. Sizes in bytes."""

    size: int
    streams: int = 1
    chunked: int = 0
    """Bytes of a chunk of a body of unknown length; 0: the length is announced."""
    patch: bool = False
    """POST, PATCH and an empty PUT instead of one PUT."""
    post: bool = False
    """POST, and PUT with the body, instead of one PUT."""
    tls: bool = False
    """TLS from the load to the server, and from the server to the store."""
    sendfile: bool = False
    """From a file, on any core: the load costs next to nothing. For wall time alone: the server
    then receives what is in the cache, which no network card would give it."""
    silent: int = 0
    """Further connections that announce 1 GiB, send `silent_bytes` and nothing more."""
    silent_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of a load cost. Times in seconds, memory in bytes."""

    cpu_per_gb: float
    """CPU seconds of the server for each 10^9 bytes of blobs."""
    wall_per_gb: float
    last_byte_to_response: float
    """From the last byte handed to the kernel to the response; of many pushes, the longest."""
    fastest: float
    slowest: float
    peak_memory: int
    """The most that was resident, less what was when the server had just started."""
    refused: int
    """Pushes that were not answered 201."""
    silent_open: int
    errors: list[str] = field(default_factory=list)


_numbers = iter(range(1, 1 << 62))


class Subject:
    """A running server that is pushed to: its idle memory, and its samples."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.idle_memory = process.memory()
        self.samples: list[Sample] = []

    def push(self, load: Load) -> Sample:
        """Push once and measure; blobs are new ones every time.

        The floor and `epoch put` take no chunks: they stand for what the same bytes cost without.
        """
        if self.name in ("floor", "epoch put"):
            load = replace(load, chunked=0, patch=False, post=False)
        numbers = [next(_numbers) for _ in range(load.streams)]
        self.process.reset_peak()
        before = self.process.cpu_seconds()
        outcome = _run_load(self.process.port, load, numbers)
        cpu = self.process.cpu_seconds() - before
        self.process.check()
        pushes = outcome["pushes"]
        amount = load.size * load.streams / GB
        return Sample(
            cpu_per_gb=cpu / amount,
            wall_per_gb=outcome["seconds"] / amount,
            last_byte_to_response=max(each["last_byte_to_response"] for each in pushes),
            fastest=min(each["seconds"] for each in pushes),
            slowest=max(each["seconds"] for each in pushes),
            peak_memory=self.process.peak_memory() - self.idle_memory,
            refused=sum(each["status"] != 201 for each in pushes),
            silent_open=outcome["silent_still_open"],
            errors=sorted({f"{p['status']} {p['error']}" for p in pushes if p["status"] != 201}),
        )

    def over(self, base: "Subject") -> list[float]:
        """CPU of this server over that of another one in the same round, for each round."""
        pairs = zip(self.samples, base.samples, strict=True)
        return [own.cpu_per_gb / other.cpu_per_gb for own, other in pairs]

    def median(self, attribute: str) -> float:
        """The median of one of the sample's figures."""
        return float(statistics.median(getattr(sample, attribute) for sample in self.samples))


def _run_load(port: int, load: Load, numbers: list[int]) -> dict[str, Any]:
    digests = "\n".join(digest(load.size, number) for number in numbers)
    command = [
        *([] if load.sendfile else ["taskset", "-c", str(LOAD_CPU)]),
        *(str(program("load", tls=load.tls)), f"--port={port}"),
        *(f"--size={load.size}", f"--streams={load.streams}", f"--first={numbers[0]}"),
        *(f"--chunked={load.chunked}", f"--silent={load.silent}"),
        f"--silent-bytes={load.silent_bytes}",
        *(["--patch"] if load.patch else []),
        *(["--post"] if load.post else []),
        *(["--tls"] if load.tls else []),
        *(["--sendfile"] if load.sendfile else []),
    ]
    done = subprocess.run(command, input=digests, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"load failed: {done.stderr}")
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def measure(subjects: list[Subject], load: Load, runs: int) -> None:
    """Push to each in turn, `runs` times over, so that all see the same weather.

    One push beforehand lets connections and buffers come into being; it is not counted.
    """
    for subject in subjects:
        warm = Load(size=min(load.size, 64 << 20), streams=load.streams)
        way = replace(warm, patch=load.patch, post=load.post, chunked=load.chunked, tls=load.tls)
        subject.push(way)
    for _ in range(runs):
        for subject in subjects:
            subject.samples.append(subject.push(load))


def weather() -> dict[str, Any]:
    """What else the machine did: the load average, and ticks stolen by its host since boot."""
    with open("/proc/stat") as stat:
        fields = stat.readline().split()
    return {"load_average": os.getloadavg(), "steal_ticks": int(fields[8])}
