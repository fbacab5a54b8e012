"""Runs the official OCI conformance program; only when it is named, by `make conformance`.

The program is `conformance/` of opencontainers/distribution-spec, built with `go build`. Its exit
code is 0 also when it could not run or write a report, and what it skips does not fail it; so its
report is judged here.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import bcrypt
import pytest

from tests.tools.fixtures import StartServer
from tests.tools.server import Server

PROGRAM: Final = "EPOCH_CONFORMANCE_PROGRAM"
"""The variable that holds the path of the program."""
LEAST: Final = {"dev": 900, "stable": 850}
"""Checks below which a run was not a whole one. A clean one has 986 and 862."""
_LIMIT: Final = 300.0


@dataclass(frozen=True, slots=True)
class Report:
    """The counts of one run, and the names of the checks that did not pass."""

    total: int
    failed: int
    errors: int
    skipped: int
    disabled: int
    names: tuple[str, ...]

    @property
    def passed(self) -> int:
        """Checks that passed."""
        return self.total - self.failed - self.errors - self.skipped - self.disabled

    def __str__(self) -> str:
        return (
            f"{self.passed} Pass, {self.failed} FAIL, {self.errors} Error, "
            f"{self.skipped} Skip, {self.disabled} Disabled: {self.total}"
        )

    def problems(self, version: str) -> list[str]:
        """Why a run in that version was not clean."""
        found = list(self.names)
        if self.failed or self.errors or self.skipped:
            found.append(str(self))
        if self.disabled and version == "dev":
            found.append(f"{self.disabled} checks are disabled")
        if self.total < LEAST[version]:
            found.append(f"only {self.total} checks, of at least {LEAST[version]}")
        return found


def read_report(junit: str) -> Report:
    """The counts in the program's `junit.xml`."""
    (suite,) = ElementTree.fromstring(junit).findall("testsuite")

    def count(name: str) -> int:
        return int(suite.get(name, "0"))

    names = [
        f"{case.get('status')}: {case.get('name')}: {case.findtext('system-out', '').strip()}"
        for case in suite.findall("testcase")
        if case.get("status") in ("failure", "error")
    ]
    return Report(
        total=count("tests"),
        failed=count("failures"),
        errors=count("errors"),
        skipped=count("skipped"),
        disabled=count("disabled"),
        names=tuple(names),
    )


def run(
    program: Path,
    server: Server,
    version: str,
    results: Path,
    extra: Mapping[str, str] | None = None,
) -> Report:
    """One run of the program, with more variables; AssertionError where it left no report."""
    environment: Mapping[str, str] = {
        **{key: value for key, value in os.environ.items() if not key.startswith("OCI_")},
        "OCI_REGISTRY": f"127.0.0.1:{server.port}",
        "OCI_TLS": "disabled",
        "OCI_VERSION": version,
        "OCI_RESULTS_DIR": str(results),
        **(extra or {}),
    }
    results.mkdir(parents=True)
    done = subprocess.run(
        [program.resolve()], env=environment, cwd=results, capture_output=True, timeout=_LIMIT
    )
    report = results / "junit.xml"
    assert report.exists(), done.stderr.decode(errors="replace")
    return read_report(report.read_text())


def program() -> Path:
    """The program to run."""
    path = Path(os.environ[PROGRAM])
    assert path.is_file(), f"{path}: not there"
    return path


@pytest.mark.timeout(4 * _LIMIT)
@pytest.mark.parametrize("version", LEAST)
def test_official_program(
    start_server: StartServer,
    version: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """Twice over the same store: nothing that the first run left may disturb the second."""
    server = start_server()
    for number in (1, 2):
        report = run(program(), server, version, tmp_path / f"results-{number}")
        with capsys.disabled():
            print(f"\n{request.node.name}, run {number}: {report}")
        assert report.problems(version) == []


@pytest.mark.timeout(2 * _LIMIT)
@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_official_program_signed_in(
    start_server: StartServer, scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user with a password; and with the registry token, for which tokens are given out."""
    password = secrets.token_hex(16)
    if scheme == "Basic":
        users = tmp_path / "htpasswd"
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        users.write_text(f"user:{hashed}\n")
        server = start_server({"EPOCH_HTPASSWD": str(users)})
    else:
        server = start_server({"EPOCH_REGISTRY_TOKEN": password})
    signed_in = {"OCI_USERNAME": "user", "OCI_PASSWORD": password}
    report = run(program(), server, "dev", tmp_path / "results", signed_in)
    with capsys.disabled():
        print(f"\n{scheme}: {report}")
    assert report.problems("dev") == []
