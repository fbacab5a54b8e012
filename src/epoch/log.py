"""The log: one line per event on stderr, as `time level message key=value ...`, in UTC.

    2026-11-22T13:21:05.123Z info request method=GET path=/v2/ status=200 ...

What clients send cannot forge or colour a line: everything but printable ASCII is escaped, and a
value with anything odd in it is a JSON string. Queries are never logged (`_state`, `token` and
presigned parameters are secrets), nor are headers other than User-Agent and a harmless
X-Request-Id. What callers pass as fields must not be secret.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import sys
import time
from typing import Final

from epoch.config import LOG_LEVELS

MAX_VALUE: Final = 512
"""Characters of a value; what is longer is cut and ends in `...`."""

MAX_REASONS: Final = 10
"""Different reasons in a second; see `Bounded`."""

_LEVELS: Final = dict(
    zip(LOG_LEVELS, (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR), strict=True)
)
_NAMES: Final = {number: name for name, number in _LEVELS.items()} | {logging.CRITICAL: "error"}

_QUOTED = re.compile(r'[ "=\\]')
"""Printable, but not in a value without quotes."""

_ODD = re.compile(r"[^\n -~]")

_logger: Final = logging.getLogger("epoch")


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _stamp(now: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the millisecond."""
    second = int(now)
    return f"{_date(second)}.{int((now - second) * 1000):03d}Z"


class _Formatter(logging.Formatter):
    """`time level message`; further lines (tracebacks) are indented, so that none can be forged."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name != _logger.name:
            message = f"{record.name}: {message}"
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        if not (message.isascii() and message.isprintable()):
            message = _ODD.sub(_escape, message).replace("\n", "\n    ")
        level = _NAMES.get(record.levelno, "info")
        return f"{_stamp(record.created)} {level} {message}"


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def configure(level: str = "info") -> None:
    """Send this process's log to stderr, from `level` on (one of `LOG_LEVELS`).

    Libraries are heard from warnings on, whatever the level: their debug lines may hold
    signatures. A second call replaces the first.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _logger.setLevel(_LEVELS[level])
    # Not in our lines, and each costs time per record ("Optimization", logging's documentation).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.captureWarnings(True)


def value(raw: object) -> str:
    """`raw` as it stands in a line: as it is where harmless, else a JSON string, cut if long."""
    text = str(raw)
    if not text:
        return '""'
    if len(text) > MAX_VALUE:
        text = text[: MAX_VALUE - 3] + "..."
    if text.isascii() and text.isprintable() and not _QUOTED.search(text):
        return text
    return json.dumps(text).replace("\x7f", "\\u007f")


def _write(level: int, message: str, fields: dict[str, object], error: object = None) -> None:
    """Hand a line to the handlers, without the search for the caller's frame that costs most."""
    text = message + "".join([f" {key}={value(field)}" for key, field in fields.items()])
    raised = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    _logger.handle(logging.LogRecord(_logger.name, level, "", 0, text, None, raised))


def debug(message: str, /, **fields: object) -> None:
    """Write a line for developers."""
    if _logger.isEnabledFor(logging.DEBUG):
        _write(logging.DEBUG, message, fields)


def info(message: str, /, **fields: object) -> None:
    """Write a line about what normally happens."""
    if _logger.isEnabledFor(logging.INFO):
        _write(logging.INFO, message, fields)


def warn(message: str, /, **fields: object) -> None:
    """Write a line about what somebody should look at some day."""
    if _logger.isEnabledFor(logging.WARNING):
        _write(logging.WARNING, message, fields)


def error(message: str, /, exception: BaseException | None = None, **fields: object) -> None:
    """Write a line about what failed and should not have, with the traceback of `exception`."""
    if _logger.isEnabledFor(logging.ERROR):
        _write(logging.ERROR, message, fields, exception)


class Bounded:
    """Errors that may come by the thousand: each reason is written at most once a second, and no
    more than `MAX_REASONS` of them. The next line says how many lines were left out."""

    def __init__(self) -> None:
        self._second = 0
        self._written: set[str] = set()
        self._left_out = 0

    def error(self, message: str, reason: object, **fields: object) -> None:
        """Write a line like `log.error`, or count it."""
        now, text = int(time.monotonic()), str(reason)
        if now != self._second:
            self._second = now
            self._written.clear()
        if text in self._written or len(self._written) >= MAX_REASONS:
            self._left_out += 1
            return
        self._written.add(text)
        fields["reason"] = text
        if self._left_out:
            fields["left_out"], self._left_out = self._left_out, 0
        _write(logging.ERROR, message, fields)


def access(
    method: str,
    target: str,
    status: int,
    received: int,
    sent: int,
    seconds: float,
    peer: str,
    agent: str = "",
    *,
    user: str = "",
    id: str = "",  # noqa: A002 - as the line has it
) -> None:
    """Write the line of one request, at info.

    `target`: as sent; its query is left out. `received`, `sent`: bytes of the two bodies.
    `seconds`: from the head to the last byte of the answer. `peer`: `host:port`, or the address
    that a proxy tells. `user`: who has proved to be that; never what was only claimed, since people
    type passwords where names belong.
    """
    if not _logger.isEnabledFor(logging.INFO):
        return
    # Straight to the stream: a LogRecord and its handler cost more than all else here.
    with contextlib.suppress(OSError):
        sys.stderr.write(
            f"{_stamp(time.time())} info request method={value(method)} "
            f"path={value(target.partition('?')[0])} status={status} received={received} "
            f"sent={sent} seconds={seconds:.6f} peer={value(peer)} user={value(user)} "
            f"id={value(id)} agent={value(agent)}\n"
        )


def ready(addr: str, store: str) -> None:
    """Write the line that scripts wait for: `<time> info ready addr=HOST:PORT store=...`.

    Written at every log level, once requests are taken. `addr`: as bound, so with the port that
    was given for port 0; `store`: the store's description.
    """
    _write(logging.INFO, "ready", {"addr": addr, "store": store})
