"""Values on the command line that click has no type for: sizes and addresses."""

from __future__ import annotations

import re
from typing import Final

import click

_SIZE = re.compile(r"([0-9]{1,19}) ?(?:([KMGT])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_ADDRESS = re.compile(r"(?P<host>[^:\[\]\s]*|\[[^\[\]\s]+\]):(?P<port>[0-9]{1,5})", re.ASCII)


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
