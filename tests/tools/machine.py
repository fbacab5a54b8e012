"""What a test may need of the machine that it runs on; where that is not there, it is skipped."""

from __future__ import annotations

import resource
import shutil

import pytest

_OTHERS = 100
"""Descriptors that a process has for other things than a test's connections."""


def program(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no program `{name}` here")
    return found


def curl() -> tuple[str, ...]:
    """The beginning of a command line of curl, without the settings of whoever runs the tests."""
    return program("curl"), "-q"


def connections(wanted: int, least: int) -> int:
    """How many connections may be open at once, of those that are wanted.

    Raises the soft limit of descriptors to the hard one, also for processes that are started later.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - _OTHERS)
    if allowed < least:
        pytest.skip(f"not more than {hard} descriptors are allowed here")
    return allowed
