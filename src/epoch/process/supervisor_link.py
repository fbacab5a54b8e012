"""What a worker and its parent say to one another, and the worker's end of it.

Messages are lines of JSON, to us on stdin and from us on stdout:

    parent: {"settings": base64 of a pickle, "first": true}   once, at the beginning
    worker: {"ready": "HOST:PORT", "store": "..."}
    worker: {"ask": N}         it is asked for metrics
    parent: {"report": N}      to every worker
    worker: {"figures": N, "text": "..."}
    parent: {"totals": N, "text": "..."}       to the one that asked

Settings hold secrets, so they are neither arguments nor variables. The end of stdin means that the
parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from typing import Any, Final

from epoch import log
from epoch.metrics import render

_PATIENCE: Final = 5.0
"""Seconds that the parent may take for totals before a worker tells its own figures alone."""


class SupervisorLink:
    """The other end, as a server sees it."""

    def __init__(self, source: int, target: int, *, first: bool) -> None:
        """File descriptors of two pipes. `first`: whether we are the one of all workers that
        tells people what they need to hear only once."""
        self.first = first
        self._source = source
        self._target = target
        self._stop: Callable[[], None] = lambda: None
        self._buffer = b""
        self._asked: dict[int, asyncio.Future[str]] = {}
        self._count = 0

    def start(self, stop: Callable[[], None]) -> None:
        """Listen to it from now on; `stop` is called when it is gone."""
        self._stop = stop
        os.set_blocking(self._source, False)
        asyncio.get_running_loop().add_reader(self._source, self._read)

    def ready(self, address: str, store: str) -> None:
        """Tell that requests are taken, and where."""
        self._send({"ready": address, "store": store})

    async def totals(self) -> bytes | None:
        """The metrics of all workers; None where the parent does not answer."""
        self._count += 1
        number = self._count
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._send({"ask": number})
        try:
            async with asyncio.timeout(_PATIENCE):
                return (await answer).encode()
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._source, 65536)
            if not data:
                asyncio.get_running_loop().remove_reader(self._source)
                self._stop()
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                try:
                    self._handle(json.loads(line))
                except (ValueError, TypeError, KeyError) as error:
                    log.error("a line of the parent is not understood", reason=error)

    def _handle(self, message: dict[str, Any]) -> None:
        if "report" in message:
            self._send({"figures": message["report"], "text": render()[1].decode()})
        elif (answer := self._asked.get(message["totals"])) is not None and not answer.done():
            answer.set_result(str(message["text"]))

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        # Small, and read at once: a pipe of 64 KiB does not fill. If the parent is gone, we go too.
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._target, data) :]
