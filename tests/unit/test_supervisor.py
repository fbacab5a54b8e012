"""The parent of workers, and the pipes: what goes wrong with one worker costs no place."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from epoch.config import Settings
from epoch.metrics import metrics
from epoch.process import supervisor
from epoch.process.supervisor_link import SupervisorLink
from tests.tools.running import eventually

READY = {"ready": "127.0.0.1:1", "store": "nowhere"}
WORKER = """
import sys, time
sys.stdin.readline()
print(sys.argv[1], flush=True)
time.sleep(60)
"""
"""Says what it is told to, then is silent until it is killed."""


def scripted(
    monkeypatch: pytest.MonkeyPatch, turns: list[tuple[str, ...] | OSError]
) -> list[asyncio.subprocess.Process]:
    """Have the supervisor start these workers, one after the other, instead of real ones."""
    started: list[asyncio.subprocess.Process] = []
    real: Callable[..., Coroutine[Any, Any, asyncio.subprocess.Process]]
    real = asyncio.create_subprocess_exec

    async def start(*_: str, **options: Any) -> asyncio.subprocess.Process:
        turn = turns.pop(0) if len(turns) > 1 else turns[0]
        if isinstance(turn, OSError):
            raise turn
        started.append(await real(sys.executable, "-c", WORKER, *turn, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr(supervisor, "_FIRST_DELAY", 0.001)
    return started


def supervising(body: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """The exit code of a supervisor of one worker that runs `body` once that is ready."""

    async def run() -> int:
        one = supervisor._Supervisor(Settings(workers=1))
        running = asyncio.create_task(one.run())
        try:
            await eventually(one._workers[0].ready.is_set)
            await body()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            code = await running
        return code

    return asyncio.run(run())  # not uvloop, as in `supervise`


BAD_LINES = ['{"rea', "[1]", "7", "{}", '{"ready": 1}', '{"figures": 1, "text": "a b"}', "\\xff"]


def test_a_worker_keeps_its_place_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ready = json.dumps(READY)
    no_memory = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    turns: list[tuple[str, ...] | OSError] = [(ready,), no_memory, no_memory]
    turns += [(line,) for line in BAD_LINES]
    started = scripted(monkeypatch, [*turns, (ready,)])

    async def body() -> None:
        started[0].kill()
        await eventually(lambda: len(started) == len(BAD_LINES) + 2)
        await asyncio.sleep(0.2)
        assert started[-1].returncode is None

    assert supervising(body) == 0
    text = caplog.text
    assert text.count("a worker cannot be started") == 2
    assert "Resource temporarily unavailable" in text
    assert text.count("what it sends is not understood") == len(BAD_LINES)
    assert all(process.returncode is not None for process in started)


def test_a_worker_that_cannot_be_started_at_first_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted(monkeypatch, [OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))])
    assert asyncio.run(supervisor._Supervisor(Settings(workers=1)).run()) == 1
    (line,) = caplog.text.splitlines()
    assert "a worker cannot be started" in line


def test_a_signal_reaches_every_worker_but_those_that_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = scripted(monkeypatch, [(json.dumps(READY),)])

    async def body() -> None:
        started[0].kill()
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0)
        await eventually(lambda: len(started) == 2)

    assert supervising(body) == 0


async def test_a_line_of_the_parent_that_is_none_is_logged_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "buffers", None)
    to_worker, from_worker = os.pipe(), os.pipe()
    ended = asyncio.Event()
    parent = SupervisorLink(to_worker[0], from_worker[1], first=True)
    parent.start(ended.set)
    try:
        bad = b'{"rea\n[1]\n7\n{}\n{"totals": []}\n{"totals": {}, "text": 1}\n\xff\n'
        os.write(to_worker[1], bad + b'{"report": 5}\n')
        answer = json.loads(await asyncio.to_thread(os.read, from_worker[0], 1 << 16))
        assert answer["figures"] == 5
        assert caplog.text.count("a line of the parent is not understood") == 7
        assert not ended.is_set()
        os.close(to_worker[1])
        await asyncio.wait_for(ended.wait(), 5)
    finally:
        for descriptor in (to_worker[0], *from_worker):
            os.close(descriptor)
