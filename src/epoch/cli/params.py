"""Options with variables, and values that click has no type for: sizes, durations, addresses."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from epoch.config import LOG_LEVELS, GarbageSettings, Network, StoreSettings

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE = re.compile(r"([0-9]{1,19}) ?(?:([KMGT])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION = re.compile(r"([0-9]{1,9}) ?([smhd])?", re.ASCII | re.IGNORECASE)
_SECONDS: Final = {"": 1, "S": 1, "M": 60, "H": 3600, "D": 86400}
_ADDRESS = re.compile(r"(?P<host>[^:\[\]\s]*|\[[^\[\]\s]+\]):(?P<port>[0-9]{1,5})", re.ASCII)


def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """An option with a variable whose name and default the help shows."""
    variable = "EPOCH_" + names[0].split("/")[0].removeprefix("--").replace("-", "_").upper()
    settings = {"show_default": True, "envvar": variable, "show_envvar": True, **settings}
    return click.option(*names, **settings)


def data_dir_option(text: str) -> Callable[[Any], Any]:
    """`--data-dir`, of every command that works on the store."""
    return option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=StoreSettings().data_dir,
        help=text,
    )


def log_level_option(text: str = "The least severe line that is logged.") -> Callable[[Any], Any]:
    """`--log-level`, of every command that logs."""
    return option(
        "--log-level",
        type=click.Choice(LOG_LEVELS, case_sensitive=False),
        default="info",
        help=text,
    )


def min_age_option(*names: str, **more: Any) -> Callable[[Any], Any]:
    """How old garbage must be."""
    return option(
        *names,
        type=Duration(),
        default=format_duration(GarbageSettings().min_age),
        metavar="DURATION",
        help="How long a blob must have lain unreferenced before it is garbage; at least 1h.",
        **more,
    )


def format_size(size: int) -> str:
    """`size` bytes in the largest unit that divides it: 16777216 is `16MiB`."""
    for unit in "TGMK":
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}iB"
    return f"{size}B"


class Size(click.ParamType[int]):
    """Bytes, as `16MiB`, `256M` or `1048576`. Every unit is a power of 1024."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number of bytes, or a usage error."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            self.fail(
                f"{value!r} is not a size: write 16MiB, 256M or a number of bytes", param, ctx
            )
        return int(found[1]) * _UNITS[(found[2] or "").upper()]


def format_duration(seconds: float) -> str:
    """Whole `seconds` in the largest unit that divides them: 86400 is `1d`, 5400 is `90m`."""
    for unit in "DHM":
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]:.0f}{unit.lower()}"
    return f"{seconds:.0f}s"


class Duration(click.ParamType[float]):
    """Seconds, as `24h`, `30m`, `7d` or `90`."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of seconds, or a usage error."""
        if not isinstance(value, str):
            return value
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r} is not a duration: write 24h, 30m, 90s or 7d", param, ctx)
        return float(int(found[1]) * _SECONDS[(found[2] or "").upper()])


class Address(click.ParamType[tuple[str, int]]):
    """Where to listen, as `:8080`, `127.0.0.1:8080` or `[::1]:8080`: host (bare) and port."""

    name = "address"

    def convert(
        self,
        value: str | tuple[str, int],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, int]:
        """Host and port, or a usage error."""
        if isinstance(value, tuple):
            return value
        found = _ADDRESS.fullmatch(value.strip())
        if found is None or int(found["port"]) > 65535:
            self.fail(f"{value!r} is not an address: write :8080 or 127.0.0.1:8080", param, ctx)
        return found["host"].strip("[]"), int(found["port"])


class Networks(click.ParamType[tuple[Network, ...]]):
    """Addresses and networks, as `127.0.0.1,10.0.0.0/8`, also with spaces between them."""

    name = "networks"

    def convert(
        self,
        value: str | tuple[Network, ...],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[Network, ...]:
        """The networks, or a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(map(ip_network, value.replace(",", " ").split()))
        except ValueError as error:
            self.fail(f"{error}: write 127.0.0.1 or 10.0.0.0/8, with commas between", param, ctx)
