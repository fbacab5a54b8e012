"""A worker of `epoch serve --workers N`: its settings come from its parent. Not for people."""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys

import click

from epoch.cli.serve import run
from epoch.config import Settings
from epoch.process.supervisor_link import SupervisorLink


def main() -> int:
    """Serve as the parent wants it; the exit code. What fails at start is one line on stderr."""
    target = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is no message
    # Without a buffer: what comes after the first line is for the server to read.
    with open(0, "rb", buffering=0, closefd=False) as source:
        line = source.readline()
    if not line.endswith(b"\n"):
        return 1  # the parent is gone
    first = json.loads(line)
    settings: Settings = pickle.loads(base64.b64decode(first["settings"]))  # noqa: S301 - our own
    try:
        return run(settings, SupervisorLink(0, target, first=first["first"]))
    except click.ClickException as error:
        error.show()
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
