"""Signals whose default action would end a process amid its work, though nobody asks for that.

SIGTERM and SIGINT end a process, SIGQUIT and SIGKILL kill it. SIGHUP, SIGUSR1 and SIGUSR2 are what
scripts send to make a server read its files again or open its log again; they must never kill one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from epoch import log

_HARMLESS: Final = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


def hold() -> None:
    """Keep the harmless ones pending until `handle` is called: a start takes a while."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HARMLESS)


@contextmanager
def held() -> Iterator[None]:
    """The same for processes that are started within: they inherit the mask (execve(2))."""
    hold()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HARMLESS)


def handle(add: Callable[..., object], on_hangup: Callable[[], object]) -> None:
    """Call `on_hangup` on SIGHUP from now on; SIGUSR1 and SIGUSR2 only leave a line in the log.

    `add`: the event loop's `add_signal_handler`.
    """
    add(signal.SIGHUP, on_hangup)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        add(number, _ignore, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HARMLESS)


def _ignore(number: signal.Signals) -> None:
    log.info("signal ignored", signal=number.name)
