"""The programs of the client matrix, at pinned versions, in a cache of the user's.

`python -m tests.clients.programs` gets what is missing: Debian packages are unpacked, not
installed, so that the system stays as it is; the others are built with Go.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CACHE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epoch" / "clients"
)

CURL: Final = "curl"
"""Taken from the system, whatever its version."""

DEBIAN: Final = {
    "docker.io": "20.10.24",
    "containerd": "1.6.20",
    "skopeo": "1.9.3",
    "podman": "4.3.1",
    "buildah": "1.28.2",
}
"""Packages of Debian 12, and their upstream versions."""

GO: Final = {
    "crane": ("github.com/google/go-containerregistry/cmd/crane", "v0.22.1"),
    "regctl": ("github.com/regclient/regclient/cmd/regctl", "v0.11.7"),
}
"""Commands by name: their Go packages and versions."""

_PACKAGE_OF: Final = {
    "docker": "docker.io",
    "dockerd": "docker.io",
    "containerd": "containerd",
    "ctr": "containerd",
    "skopeo": "skopeo",
    "podman": "podman",
    "buildah": "buildah",
}


@dataclass(frozen=True, slots=True)
class Missing(Exception):
    """A program cannot be had. `excusable`: this machine has no means to get it at all."""

    reason: str
    excusable: bool


def _unpacked() -> Path:
    """Where the packages are; the name changes with their versions."""
    return _CACHE / "-".join(["debian", *(f"{name}_{at}" for name, at in DEBIAN.items())])


def _built(command: str) -> Path:
    return _CACHE / f"{command}-{GO[command][1]}" / command


def find(command: str) -> str:
    """The path of a program, or `Missing`."""
    if command == CURL:
        found = shutil.which(CURL)
        if found is None:
            raise Missing("there is no curl: apt-get install curl", excusable=False)
        return found
    if command in GO:
        path, getter = _built(command), "go"
    else:
        folders = ("usr/bin", "usr/sbin")
        candidates = [_unpacked() / folder / command for folder in folders]
        path = next(filter(Path.exists, candidates), candidates[0])
        getter = "apt-get"
    if path.exists():
        return str(path)
    if shutil.which(getter) is None:
        raise Missing(f"no {command}: it comes with {getter}, which is not here", excusable=True)
    raise Missing(f"no {command}: python -m tests.clients.programs says why", excusable=False)


def version(command: str) -> str:
    """The version that is pinned, or what curl says of itself."""
    if command in GO:
        return GO[command][1].removeprefix("v")
    if command == CURL:
        said = subprocess.run([find(CURL), "--version"], capture_output=True, text=True, check=True)
        return said.stdout.split()[1]
    return DEBIAN[_PACKAGE_OF[command]]


def environment(home: Path) -> dict[str, str]:
    """The variables of a program: its home is `home`, and it finds the cache's libraries."""
    root = _unpacked()
    programs = [root / "usr/bin", root / "usr/sbin"]
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "usr/lib/aarch64-linux-gnu"]
    libraries += [root / "lib/x86_64-linux-gnu", root / "lib/aarch64-linux-gnu"]
    kept = {key: os.environ[key] for key in ("LANG", "TMPDIR") if key in os.environ}
    return kept | {
        "PATH": ":".join([*map(str, programs), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
    }


def _unpack_debian() -> None:
    """Download the packages, with what they need and the system lacks, and unpack them."""
    target = _unpacked()
    if target.exists():
        return
    work = target.with_name(f"{target.name}.{os.getpid()}")
    downloads = work / "downloads"
    (downloads / "partial").mkdir(parents=True)
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]
    command += ["--reinstall", "--download-only", "--option", f"Dir::Cache::archives={downloads}"]
    # Nothing is installed, so nobody needs to be kept from installing; nor need one be root.
    command += ["--option", "Debug::NoLocking=1"]
    command += [f"{name}={at}*" for name, at in DEBIAN.items()]
    null = subprocess.DEVNULL
    try:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            # The lists of a fresh machine are empty or old.
            subprocess.run(["apt-get", "update", "--quiet"], check=True, stdout=null)
            subprocess.run(command, check=True, stdout=null)
        for package in downloads.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(work)], check=True)
        shutil.rmtree(downloads)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(command: str) -> None:
    path = _built(command)
    if path.exists():
        return
    package, at = GO[command]
    environment = {**os.environ, "GOBIN": str(path.parent), "GOFLAGS": "", "CGO_ENABLED": "0"}
    subprocess.run(["go", "install", f"{package}@{at}"], check=True, env=environment)


def main() -> None:
    """Get all that can be had, and say what cannot."""
    if shutil.which("apt-get"):
        try:
            _unpack_debian()
        except subprocess.CalledProcessError as error:
            print(f"Debian packages: {error}", file=sys.stderr)
    if shutil.which("go"):
        for command in GO:
            try:
                _build(command)
            except subprocess.CalledProcessError as error:
                print(f"{command}: {error}", file=sys.stderr)
    for command in (*_PACKAGE_OF, *GO, CURL):
        try:
            print(f"{command} {version(command)}: {find(command)}")
        except Missing as missing:
            print(missing.reason, file=sys.stderr)


if __name__ == "__main__":
    main()
