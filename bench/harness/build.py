"""Builds the C programs (floor, discarding S3 server, load) with nothing but a C compiler."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Final

BENCH: Final = Path(__file__).resolve().parents[1]
_SOURCE: Final = BENCH / "c"
_BINARIES: Final = BENCH / "bin"
_EPOCH: Final = BENCH.parent / "src" / "epoch"

# The floor hashes with the server's own code, so that a ratio to it says what everything but the
# hash costs; that the hash itself is fast is held by `test_core_paths.py`.
_PROGRAMS: Final[dict[str, list[Path]]] = {
    "floor": [_SOURCE / "floor.c", _EPOCH / "_sha256.c"],
    "discard_s3": [_SOURCE / "discard_s3.c"],
    "load": [_SOURCE / "load.c"],
    "relay": [_SOURCE / "relay.c"],
    "pull": [_SOURCE / "pull.c"],
    "requests": [_SOURCE / "requests.c"],
}
_HEADERS: Final = [_SOURCE / "net.h", _EPOCH / "_sha256.h"]


def program(name: str) -> Path:
    """The path of a built program (`floor`, `discard_s3`, `load`), built when it is out of date."""
    sources = _PROGRAMS[name]
    binary = _BINARIES / name
    newest = max(path.stat().st_mtime for path in [*sources, *_HEADERS])
    if not binary.exists() or binary.stat().st_mtime < newest:
        _BINARIES.mkdir(exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", f"-I{_EPOCH}"]
        subprocess.run([*compiler, *flags, "-o", binary, *sources], check=True)
    return binary


if __name__ == "__main__":
    for each in _PROGRAMS:
        print(program(each))
