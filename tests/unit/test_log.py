"""The log: its form, and that nothing from outside can forge or colour a line, or leak a secret."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epoch import log

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<level>debug|info|warn|error) (?P<rest>.*)"
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, epoch = logging.getLogger(), logging.getLogger("epoch")
    before = root.handlers[:], root.level, epoch.level
    flags = logging.logThreads, logging.logProcesses, logging.logMultiprocessing
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    epoch.setLevel(before[2])
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = flags
    logging.captureWarnings(False)


def rest_of(line: str) -> str:
    """What follows time and level."""
    found = LINE.fullmatch(line)
    assert found, line
    return found["rest"]


def test_an_application_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    log.info("part stored", number=3, key="a b", empty="")
    assert rest_of(capsys.readouterr().err.rstrip("\n")) == (
        'part stored number=3 key="a b" empty=""'
    )


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warn", "error"]),
        ("info", ["info", "warn", "error"]),
        ("warn", ["warn", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(level: str, seen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(level)
    for write in (log.debug, log.info, log.warn, log.error):
        write("x")
    lines = capsys.readouterr().err.splitlines()
    assert [found["level"] for line in lines if (found := LINE.fullmatch(line))] == seen
    assert len(lines) == len(seen)


def test_errors_that_repeat_are_counted_instead(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("epoch.log.time.monotonic", lambda: now)
    log.configure("error")
    bounded = log.Bounded()
    for _ in range(3):
        bounded.error("failed", "it is down", name="a")
    bounded.error("failed", "it is slow", name="b")
    for number in range(20):
        bounded.error("failed", f"reason {number}")
    lines = [rest_of(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[:2] == [
        'failed name=a reason="it is down"',
        'failed name=b reason="it is slow" left_out=2',
    ]
    assert len(lines) == log.MAX_REASONS
    now += 1
    bounded.error("failed", "it is down", name="a")
    (line,) = capsys.readouterr().err.splitlines()
    assert rest_of(line) == 'failed name=a reason="it is down" left_out=12'


def test_an_access_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    log.access(
        *("PUT", "/v2/a/blobs/x", 201, 10, 20, 0.5, "[::1]:5", "curl/8.5.0"), user="a b", id="c-1"
    )
    assert rest_of(capsys.readouterr().err.rstrip("\n")) == (
        "request method=PUT path=/v2/a/blobs/x status=201 received=10 sent=20 seconds=0.500000 "
        'peer=[::1]:5 user="a b" id=c-1 agent=curl/8.5.0'
    )


def test_access_lines_are_written_at_info(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("warn")
    log.access("GET", "/v2/", 200, 0, 0, 0.0, "p")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "query", ["_state=s3cr3t", "a=b&token=s3cr3t", "X-Amz-Signature=s3cr3t", "?s3cr3t?_state"]
)
def test_no_query_is_logged(query: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("debug")
    log.access("PUT", f"/v2/a/blobs/uploads/1?{query}", 201, 0, 0, 0.0, "p")
    assert "s3cr3t" not in capsys.readouterr().err


HOSTILE = [
    "a\r\n2026-01-01T00:00:00.000Z error forged",
    "\x1b[31mred\x1b[0m",
    "\x9b31m",
    "\x00\x07\x08\x7f",
    "\u2028\u2029\x85",
    "\u202egpj.exe",
    "\udcff",
    'quote" status=500 x="',
    "back\\slash",
    "key=value",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_inside_its_value(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    log.access(text, f"/{text}", 400, 0, 0, 0.0, "p", text, user=text)
    log.warn("odd", field=text)
    error = capsys.readouterr().err
    lines = error.split("\n")
    assert len(lines) == 3
    assert lines[2] == ""
    assert all(char == "\n" or " " <= char <= "~" for char in error)
    assert rest_of(lines[1]) == f"odd field={json.dumps(text)}".replace("\x7f", "\\u007f")


@given(st.text())
def test_values_are_one_printable_word_that_can_be_read_back(text: str) -> None:
    shown = log.value(text)
    assert shown.isascii()
    assert shown.isprintable()
    if shown.startswith('"'):
        assert json.loads(shown) == text
    else:
        assert shown == text
        assert re.search(r'[\s"=]', shown) is None


@pytest.mark.parametrize("length", [512, 513, 100_000])
def test_long_values_are_cut(length: int) -> None:
    shown = log.value("x" * length)
    assert len(shown) == 512
    assert shown.endswith("...") == (length > 512)


def test_a_traceback_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z error forged \x1b[31m")
    except ValueError as error:
        log.error("failed", exception=error, key="b")
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert rest_of(lines[0]) == "failed key=b"
    assert len(lines) > 3
    assert all(line.startswith("    ") for line in lines[1:])
    assert "\x1b" not in written


def test_libraries_are_heard_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("debug")
    library = logging.getLogger("botocore.auth")
    library.debug("signature s3cr3t")
    library.info("signature s3cr3t")
    library.warning("odd: %s", "a\r\nb")
    lines = capsys.readouterr().err.splitlines()
    assert rest_of(lines[0]) == "botocore.auth: odd: a\\r"
    assert lines[1:] == ["    b"]


def test_the_ready_line_is_written_at_every_level(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("error")
    log.ready("127.0.0.1:43211", "directory:/tmp/x")
    line = capsys.readouterr().err.rstrip("\n")
    assert rest_of(line) == "ready addr=127.0.0.1:43211 store=directory:/tmp/x"


def test_a_full_disk_behind_stderr_fails_no_request() -> None:
    code = (
        "from epoch import log\n"
        "log.configure()\n"
        "for _ in range(1000):\n"
        "    log.access('GET', '/v2/', 200, 0, 0, 0.0, 'p')\n"
        "    log.info('x')\n"
        "print('alive')"
    )
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert done.stdout == b"alive\n"
