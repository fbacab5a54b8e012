"""The command line, as a process: exit codes, one line per error, and the table for people."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from epoch import __version__
from epoch.cli.main import cli
from epoch.cli.params import Address, Duration, Networks, Size, format_duration, format_size
from epoch.environment import ENV_FILE, S3_VARIABLES

TABLE = Path(__file__).parents[2] / "docs" / "settings.md"


def epoch(
    *arguments: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `epoch` without the settings of whoever runs the tests."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("EPOCH_", "AWS_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "epoch", *arguments],
        env={**environment, ENV_FILE: os.devnull, **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version() -> None:
    done = epoch("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"epoch {__version__}\n", "")


def test_version_loads_nothing_heavy() -> None:
    code = (
        "import sys, epoch.cli.main\n"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('asyncio', 'uvloop', 'aiohttp', 'botocore', 'prometheus_client', 'ssl', 'httptools')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("serve", "extra"),
        ("serve", "--nothing"),
        ("serve", "--addr", "8080"),
        ("serve", "--addr", ":65536"),
        ("serve", "--part-size", "big"),
        ("serve", "--part-size", "-1"),
        ("serve", "--parts-in-flight", "0"),
        ("serve", "--shutdown-grace", "-1"),
        ("serve", "--log-level", "loud"),
        ("serve", "--workers", "0"),
        ("serve", "--trusted-proxies", "proxy.example.com"),
        ("serve", "--trusted-proxies", "10.0.0.1/8"),
        ("htpasswd", "file"),
        ("serve", "--gc-interval", "soon"),
        ("serve", "--store-patience", "-1"),
        ("gc", "extra"),
        ("gc", "--min-age", "soon"),
        ("verify", "extra"),
        ("verify", "--parallel", "0"),
        ("verify", "--after", "nowhere"),
    ],
)
def test_usage_errors_exit_2(arguments: tuple[str, ...]) -> None:
    done = epoch(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        (("--part-size", "1MiB"), {}, "5MiB"),
        (("--buffer-budget", "1MiB"), {}, "budget"),
        ((), {"EPOCH_PART_SIZE": "4MiB"}, "5MiB"),
        (("--store-patience", "11m"), {}, "10m"),
        ((), {"EPOCH_S3_ENDPOINT": "http://127.0.0.1:9"}, "EPOCH_S3_BUCKET"),
        ((), {"EPOCH_S3_ENV_FILE": "/nonexistent"}, "/nonexistent"),
        (
            ("--data-dir", "x"),
            {
                "EPOCH_S3_ENDPOINT": "m",
                "EPOCH_S3_BUCKET": "b",
                "EPOCH_S3_ACCESS_KEY": "a",
                "EPOCH_S3_SECRET_KEY": "s3cr3t",
            },
            "--data-dir",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(
    arguments: tuple[str, ...], variables: dict[str, str], told: str, tmp_path: Path
) -> None:
    done = epoch("serve", *arguments, cwd=tmp_path, **variables)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert told in done.stderr
    assert "s3cr3t" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def serve() -> click.Command:
    """The command itself."""
    return cli.commands["serve"]


def test_help_tells_variables_and_defaults() -> None:
    text = CliRunner().invoke(cli, ["serve", "--help"], terminal_width=100).output
    for word in ("EPOCH_ADDR", ":8080", "16MiB", "256MiB", "Examples:", *S3_VARIABLES, ENV_FILE):
        assert word in text


def test_the_table_for_people_is_complete_and_true() -> None:
    sections = re.split(r"^## `epoch (\w+)`$", TABLE.read_text(), flags=re.MULTILINE)
    row = re.compile(r"^\| `(--[^`]+)` \| `(EPOCH_\w+)` \| `([^`]+)` \|", re.MULTILINE)
    told = {
        command: {flag: (variable, default) for flag, variable, default in row.findall(text)}
        for command, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    real = {
        name: {
            "/".join([*option.opts, *option.secondary_opts]): (
                option.envvar,
                option.secondary_opts[0]
                if option.default is False
                else str(option.default).replace("None", "none"),
            )
            for option in command.params
            if isinstance(option, click.Option) and option.envvar
        }
        for name, command in cli.commands.items()
    }
    assert told == real
    for name in (*S3_VARIABLES, ENV_FILE):
        assert f"| `{name}` |" in TABLE.read_text()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("16MiB", 16 << 20),
        ("16 MiB", 16 << 20),
        ("256M", 256 << 20),
        ("256MB", 256 << 20),
        ("1g", 1 << 30),
        ("2TiB", 2 << 40),
        ("512K", 512 << 10),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "M", "1.5M", "-1", "+1", "1_000", "1Mi", "1PiB", "٣"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not a size"):
        Size().convert(text, None, None)


@pytest.mark.parametrize("size", [1, 1000, 1024, 1536 << 10, 16 << 20, 5 << 40])
def test_sizes_can_be_read_back(size: int) -> None:
    assert Size().convert(format_size(size), None, None) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("90", 90), ("90s", 90), ("30m", 1800), ("24H", 86400), ("7 d", 604800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds
    assert Duration().convert(format_duration(seconds), None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "1.5h", "-1", "1w", "1h30m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not a duration"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", ("", 8080)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert Address().convert(text, None, None) == address


@pytest.mark.parametrize("text", ["", "8080", ":", ":65536", "::1:80", "a b:1", ":-1", ":1 2"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not an address"):
        Address().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("127.0.0.1", ["127.0.0.1/32"]),
        ("10.0.0.0/8,fd00::/8", ["10.0.0.0/8", "fd00::/8"]),
        (" 10.0.0.0/8, 127.0.0.1 ::1 ", ["10.0.0.0/8", "127.0.0.1/32", "::1/128"]),
        ("", []),
    ],
)
def test_networks(text: str, networks: list[str]) -> None:
    assert [str(one) for one in Networks().convert(text, None, None)] == networks
