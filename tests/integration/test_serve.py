"""`epoch serve` as a process: the ready line, signals, exit codes, what fails at start."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

READY = re.compile(r" info ready addr=(\S+) store=\S")


@contextmanager
def serving(data: Path, addr: str = "127.0.0.1:0") -> Iterator[subprocess.Popen[str]]:
    """A server without the settings of whoever runs the tests; gone in the end."""
    environment = {key: value for key, value in os.environ.items() if "EPOCH_" not in key}
    process = subprocess.Popen(
        [sys.executable, "-m", "epoch", "serve", "--addr", addr, "--data-dir", str(data)],
        env={**environment, "EPOCH_S3_ENV_FILE": os.devnull},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen[str]) -> str:
    """The address that it listens on."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        found = READY.search(line)
        if found:
            return found[1]
    raise AssertionError("".join(seen))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_ready_when_it_says_so_and_ends_when_told(
    number: signal.Signals, tmp_path: Path
) -> None:
    with serving(tmp_path / "data") as process:
        address = wait_until_ready(process)
        with urllib.request.urlopen(f"http://{address}/v2/", timeout=20) as answer:
            assert answer.status == 200
        process.send_signal(number)
        assert process.stderr is not None
        rest = process.stderr.read()
        assert process.wait(20) == 0
    assert " request method=GET path=/v2/ status=200 " in rest
    assert "Traceback" not in rest


def failed(process: subprocess.Popen[str]) -> str:
    """The one line on stderr of a server that cannot start."""
    _, error = process.communicate(timeout=20)
    assert process.returncode == 1
    assert len(error.splitlines()) == 1, error
    return error


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(tmp_path / "data", f"127.0.0.1:{port}") as process:
            error = failed(process)
    assert f"port {port} is in use" in error
    assert "--addr" in error


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_named(host: str, tmp_path: Path) -> None:
    with serving(tmp_path / "data", f"{host}:0") as process:
        error = failed(process)
    assert host in error
    assert "--addr" in error


def test_a_data_dir_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with serving(tmp_path / "file" / "data") as process:
        assert str(tmp_path / "file") in failed(process)
