"""How far a command is, for whoever looks on."""

from __future__ import annotations

import sys
import time

import click


class Counter:
    """A line on stderr that is written over, where that is a terminal."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._is_terminal = sys.stderr.isatty()

    def tell(self, stage: str, count: int) -> None:
        """Show how far a stage is, ten times a second at most."""
        now = time.monotonic()
        if self._is_terminal and now - self._shown >= 0.1:
            self._shown = now
            click.echo(f"\r\033[K{stage}: {count}", err=True, nl=False)

    def clear(self) -> None:
        """Leave an empty line behind."""
        if self._shown:
            click.echo("\r\033[K", err=True, nl=False)
