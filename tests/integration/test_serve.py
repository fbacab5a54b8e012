"""`epoch serve` as a process: the ready line, signals, exit codes, what fails at start."""

import re
import resource
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from epoch.config import S3Settings
from tests.tools.machine import program
from tests.tools.server import Server, environment

READY = re.compile(r" info ready addr=(\S+) store=\S")


@contextmanager
def serving(data: Path, addr: str = "127.0.0.1:0") -> Iterator[subprocess.Popen[str]]:
    """A server without the settings of whoever runs the tests; gone in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "epoch", "serve", "--addr", addr],
        env=environment(data),
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


@pytest.mark.parametrize("workers", [1, 2])
def test_all_descriptors_that_are_allowed_are_taken(tmp_path: Path, workers: int) -> None:
    extra = {"EPOCH_WORKERS": str(workers), "EPOCH_LOG_LEVEL": "debug"}
    server = Server(tmp_path / "data", extra, before=[program("prlimit"), "--nofile=64:2048", "--"])
    try:
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) == (0 if workers == 1 else workers)
        for one in [int(child) for child in children] or [pid]:
            assert resource.prlimit(one, resource.RLIMIT_NOFILE) == (2048, 2048)
        assert server.log().count("limit of descriptors raised before=64 now=2048") == workers
        server.stop()
    finally:
        server.kill()


AWS = {
    "AWS_ACCESS_KEY_ID": "an-id",
    "AWS_SECRET_ACCESS_KEY": "a-secret",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_S3_BUCKET": "images",
    "AWS_REGION": "eu-central-1",
}
WARNING = "AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, AWS_S3_BUCKET: not read; set EPOCH_S3_*"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bucket_that_was_meant_is_not_missed_in_silence(tmp_path: Path, workers: str) -> None:
    server = Server(tmp_path / "data", AWS | {"EPOCH_WORKERS": workers})
    try:
        text = server.log()
        assert text.count(WARNING) == 1
        assert f"storing_in={tmp_path / 'data'}" in text
        for value in AWS.values():
            assert value not in text
        server.stop()
    finally:
        server.kill()
    for command in ("gc", "verify"):
        done = subprocess.run(
            [sys.executable, "-m", "epoch", command],
            env=environment(tmp_path / "data", AWS),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stderr.count(WARNING) == 1


def test_a_bucket_that_is_named_is_meant(s3_settings: S3Settings, tmp_path: Path) -> None:
    for place, extra in ((s3_settings, AWS), (tmp_path / "data", {"AWS_REGION": "eu-central-1"})):
        server = Server(place, extra)
        try:
            assert "AWS_" not in server.log()
            server.stop()
        finally:
            server.kill()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_only_the_go_server_needs_is_named_once(tmp_path: Path, workers: str) -> None:
    sign_on = {"SSO_CLIENT_SECRET": "s3cr3t-1", "GOOGLE_OAUTH_CLIENT_ID": "s3cr3t-2", "SSO_X": ""}
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "epoch", "serve", "--addr", "127.0.0.1:0"),
            "--dsn=epoch:s3cr3t-3@tcp(127.0.0.1:3306)/epoch?parseTime=true",
        ],
        env=environment(tmp_path / "data", sign_on | {"EPOCH_WORKERS": workers}),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        seen = ""
        for line in process.stderr:
            seen += line
            if READY.search(line):
                break
        process.terminate()
        seen += process.stderr.read()
        assert process.wait(20) == 0
    assert seen.count(" warn --dsn: not used; no database is needed") == 1
    assert seen.count(" warn GOOGLE_OAUTH_CLIENT_ID, SSO_CLIENT_SECRET: not used") == 1
    assert "s3cr3t" not in seen
