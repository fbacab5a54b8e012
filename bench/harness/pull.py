"""One pull, or many at once, and what it cost the server."""

import json
import statistics
import subprocess
from dataclasses import dataclass

from bench.harness.build import program
from bench.harness.process import Process
from bench.harness.servers import LOAD_CPU

GB = 1e9

_TURNS = 3
"""In a round, each server is pulled from so often, in turn: one pull is too short to be judged."""


@dataclass(frozen=True, slots=True)
class Pull:
    """What one run cost: seconds for each 10^9 bytes that reached the clients."""

    cpu_per_gb: float
    wall_per_gb: float


class Source:
    """A running server that is pulled from, and its samples."""

    def __init__(self, name: str, process: Process, path: str) -> None:
        """`path`: of the blob, in its URL."""
        self.name = name
        self._process = process
        self._path = path
        self.samples: list[Pull] = []

    def pull(self, size: int, streams: int) -> Pull:
        """Pull the blob of `size` bytes over so many connections at once; RuntimeError where one
        of them did not get all of it."""
        before = self._process.cpu_seconds()
        command = [
            *("taskset", "-c", str(LOAD_CPU), str(program("pull"))),
            *(f"--port={self._process.port}", f"--path={self._path}", f"--streams={streams}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        cpu = self._process.cpu_seconds() - before
        self._process.check()
        outcome = json.loads(done.stdout)
        for each in outcome["pulls"]:
            if (each["status"], each["bytes"], each["error"]) != (200, size, ""):
                raise RuntimeError(f"{self.name}: {each}\n{self._process.output()}")
        amount = size * streams / GB
        return Pull(cpu / amount, outcome["seconds"] / amount)

    def medians(self) -> dict[str, float]:
        """For the detail of a row."""
        return {
            "cpu_seconds_per_gb": statistics.median(each.cpu_per_gb for each in self.samples),
            "wall_seconds_per_gb": statistics.median(each.wall_per_gb for each in self.samples),
        }


def compare(base: Source, other: Source, size: int, streams: int, runs: int) -> list[float]:
    """Pull from both in turn, after one pull that is not counted: CPU of `other` over that of
    `base`, for each round."""
    for source in (base, other):
        source.samples.clear()
        source.pull(size, streams)
    ratios = []
    for _ in range(runs):
        for source in (base, other) * _TURNS:
            source.samples.append(source.pull(size, streams))
        own, least = (
            sum(each.cpu_per_gb for each in source.samples[-_TURNS:]) for source in (other, base)
        )
        ratios.append(own / least)
    return ratios
