"""CPU seconds of the server for each GB pushed, beside a C program that does the least one can.

    python bench/push.py                        one push of 1 GiB, Epoch and the floor in turn
    python bench/push.py --scenario sizes       also: streams, fair, store, all

Everything runs in processes of its own on loopback ports that the kernel chooses; the server has
a core to itself, load and store share another. Figures are medians; the ratio to the floor is
taken round by round, so that what else the machine does weighs on both alike.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `bench` itself lies

from bench.harness.blobs import GIB, MIB
from bench.harness.measure import Load
from bench.harness.report import machine, table, write
from bench.harness.scenarios import SCENARIOS, run
from bench.harness.servers import SERVERS, Tuning

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": MIB, "G": GIB}


def _bytes(text: str) -> int:
    digits = text.rstrip("iBKMG")
    return int(digits) * _UNITS[text[len(digits) :].removesuffix("B").removesuffix("i")]


def _arguments(argv: list[str]) -> argparse.Namespace:
    names = "; ".join(f"{name}: {text}" for name, (_, text) in SCENARIOS.items())
    tuning = Tuning()
    parser = argparse.ArgumentParser(description="CPU per GB of a push, and what goes with it.")
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="one", help=names)
    parser.add_argument("--runs", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--size", type=_bytes, default=GIB, help="of a blob: 64MiB, 1GiB, ...")
    parser.add_argument("--streams", type=int, default=1, help="pushes at once")
    parser.add_argument("--chunked", type=_bytes, default=0, help="chunks of that size, no length")
    parser.add_argument("--part-size", type=_bytes, default=tuning.part_size)
    parser.add_argument("--budget", type=_bytes, default=tuning.budget, help="of part buffers")
    parser.add_argument("--recv-size", type=_bytes, default=tuning.receive_size, help="floor only")
    parser.add_argument("--servers", default=",".join(SERVERS), help="which, of those known")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the scenarios and print their tables; 1 where a push was refused."""
    options = _arguments(argv)
    load = Load(size=options.size, streams=options.streams, chunked=options.chunked)
    tuning = replace(
        Tuning(),
        part_size=options.part_size,
        budget=options.budget,
        receive_size=options.recv_size,
    )
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['revision']}")
    refused = 0
    for name in SCENARIOS if options.scenario == "all" else [options.scenario]:
        make_cases, text = SCENARIOS[name]
        print(f"\n{name}: {text}")
        servers = tuple(options.servers.split(","))
        results = [run(case, options.runs) for case in make_cases(load, tuning, servers)]
        print(table(results))
        print(f"-> {write(name, results)}")
        refused += sum(
            sample.refused
            for result in results
            for subject in result.subjects.values()
            for sample in subject.samples
        )
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
