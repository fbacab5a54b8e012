"""Builds the C programs (floor, discarding S3 server, load) with nothing but a C compiler."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Final

BENCH: Final = Path(__file__).resolve().parents[1]
_SOURCE: Final = BENCH / "c"
_BINARIES: Final = BENCH / "bin"
_NATIVE: Final = BENCH.parent / "src" / "epoch" / "native"

# The floor hashes with the server's own code, so that a ratio to it says what everything but the
# hash costs; that the hash itself is fast is held by `gates/test_bytes.py`.
_PROGRAMS: Final[dict[str, list[Path]]] = {
    "floor": [
        _SOURCE / "floor.c",
        _NATIVE / "sha256.c",
        _NATIVE / "sha256_lanes.c",
    ],
    "discard_s3": [_SOURCE / "discard_s3.c"],
    "load": [_SOURCE / "load.c"],
    "relay": [_SOURCE / "relay.c"],
    "pull": [_SOURCE / "pull.c"],
    "requests": [_SOURCE / "requests.c"],
}
_HEADERS: Final = [
    _SOURCE / "net.h",
    _SOURCE / "tls.h",
    _NATIVE / "sha256.h",
    _NATIVE / "sha256_lanes.h",
]
_OPENSSL: Final = ["-lssl", "-lcrypto"]


def program(name: str, *, tls: bool = False) -> Path:
    """The path of a built program (`floor`, `discard_s3`, `load`), built when it is out of date.

    `tls`: one that can speak it; these are programs of their own, which need OpenSSL's headers."""
    sources = _PROGRAMS[name]
    binary = _BINARIES / (f"{name}_tls" if tls else name)
    newest = max(path.stat().st_mtime for path in [*sources, *_HEADERS])
    if not binary.exists() or binary.stat().st_mtime < newest:
        _BINARIES.mkdir(exist_ok=True)
        flags = ["-O3", "-std=gnu11", "-Wall", "-Wextra", f"-I{_NATIVE}"]
        flags += ["-DBENCH_TLS"] if tls else []
        libraries = _OPENSSL if tls else []
        subprocess.run([*_compiler(), *flags, "-o", binary, *sources, *libraries], check=True)
    return binary


def has_openssl() -> bool:
    """Whether the programs that speak TLS can be built here."""
    source = b"#include <openssl/ssl.h>\nint main(void) { return !SSL_CTX_new(TLS_method()); }"
    command = [*_compiler(), "-x", "c", "-o", os.devnull, "-", *_OPENSSL]
    return subprocess.run(command, input=source, capture_output=True, check=False).returncode == 0


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


if __name__ == "__main__":
    for each in _PROGRAMS:
        print(program(each))
