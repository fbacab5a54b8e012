"""How long the event loop of a server stands still: the CPU time of its longest single step.

A step is what the loop runs without looking at anything else in between: a callback, a turn of a
task, what a protocol does to the bytes of one receive (the system call itself, which may be the
first to touch fresh memory, is the kernel's). It is measured by the CPU time of the loop's thread,
so that a busy machine does not count; threads beside the loop do not count either.

As a wrapper of a server in a process of its own, which writes what it saw when it ends:

    measured = LongestStep(tmp_path / "steps")
    server = Server(place, before=measured.before)
    ...
    server.stop()
    assert measured.milliseconds() < 10, measured.table()

or by hand: python -m tests.tools.longest_step steps.json python -m epoch serve
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvloop

_PROTOCOL: Final = (
    "connection_made",
    "get_buffer",
    "buffer_updated",
    "data_received",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
)
_START_AND_END: Final = "_serve"
"""The coroutine of `process/serving.py` that runs before the first request and after the last."""
_SHOWN: Final = 12
"""Kinds of steps that are written down, the longest first."""


class LongestStep:
    """What a server that was started with `before` did in one step, once it has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.before: Final = [sys.executable, "-m", "tests.tools.longest_step", str(path)]
        """The words to put before the server's command."""

    def _steps(self) -> dict[str, float]:
        steps: dict[str, float] = json.loads(self._path.read_text())
        return {name: took for name, took in steps.items() if name != _START_AND_END}

    def milliseconds(self) -> float:
        """CPU time of the longest step."""
        return max(self._steps().values())

    def table(self) -> str:
        """The longest of each kind of step, for a person."""
        return "\n".join(f"{ms:8.2f} ms  {name}" for name, ms in self._steps().items())


class _Seen:
    """The longest step of each kind so far, in nanoseconds."""

    def __init__(self) -> None:
        self._longest: dict[str, int] = {}

    def timed(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """`callback`, as a step."""
        name = _name(callback)

        def step(*args: Any) -> Any:
            began = time.thread_time_ns()
            try:
                return callback(*args)
            finally:
                took = time.thread_time_ns() - began
                if took > self._longest.get(name, 0):
                    self._longest[name] = took

        return step

    def watch(self, protocol: Any) -> None:
        """Time what a transport calls."""
        for name in _PROTOCOL:
            if hasattr(protocol, name):
                setattr(protocol, name, self.timed(getattr(protocol, name)))

    def write(self, path: Path) -> None:
        ordered = sorted(self._longest.items(), key=lambda item: -item[1])[:_SHOWN]
        path.write_text(json.dumps({name: took / 1e6 for name, took in ordered}))


def _name(callback: Any) -> str:
    """What to call a step: the coroutine where it is the turn of a task."""
    if hasattr(callback, "func"):  # functools.partial
        callback = callback.func
    get_coroutine = getattr(getattr(callback, "__self__", None), "get_coro", None)
    coroutine = callback if get_coroutine is None else get_coroutine()
    module = getattr(coroutine, "__module__", None)
    name = getattr(coroutine, "__qualname__", None) or type(coroutine).__qualname__
    return f"{module}.{name}" if module else name


def measured_loop(seen: _Seen) -> uvloop.Loop:
    """A loop that times its steps."""

    class Measured(uvloop.Loop):  # type: ignore[misc] # it has no types
        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            return super().call_soon(seen.timed(callback), *args, context=context)

        def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
            return super().call_soon_threadsafe(seen.timed(callback), *args, context=context)

        def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
            return super().call_later(delay, seen.timed(callback), *args, context=context)

        def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
            return super().call_at(when, seen.timed(callback), *args, context=context)

        def add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:
            return super().add_reader(fd, seen.timed(callback), *args)

        def add_writer(self, fd: Any, callback: Any, *args: Any) -> Any:
            return super().add_writer(fd, seen.timed(callback), *args)

        async def create_server(self, factory: Any, *args: Any, **kwargs: Any) -> Any:
            return await super().create_server(_watched(factory), *args, **kwargs)

        async def create_connection(self, factory: Any, *args: Any, **kwargs: Any) -> Any:
            return await super().create_connection(_watched(factory), *args, **kwargs)

    def _watched(factory: Callable[[], Any]) -> Callable[[], Any]:
        def make() -> Any:
            protocol = factory()
            seen.watch(protocol)
            return protocol

        return make

    return Measured()


def _main(path: Path, command: list[str]) -> None:
    """Run `python -m <module> ...` in this process, on a loop that times its steps."""
    assert command[1] == "-m", command
    seen = _Seen()
    uvloop.new_event_loop = lambda: measured_loop(seen)
    sys.argv = command[2:]
    try:
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    finally:
        seen.write(path)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
