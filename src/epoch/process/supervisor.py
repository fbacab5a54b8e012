"""The parent of several server processes: starts them, watches them, ends them. Serves nothing.

The kernel divides new connections among the processes that listen on the port (socket(7),
SO_REUSEPORT). The parent only holds the port, so that it stays ours while a worker is restarted.
Workers are new processes of the same interpreter, not forks: nothing of the parent is in them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import pickle
import signal
import sys
import time
from dataclasses import replace
from typing import Any, Final, NamedTuple

from epoch import log
from epoch.config import Settings
from epoch.process import signals
from epoch.process.port import reserve
from epoch.process.totals import total

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 30.0
_STABLE: Final = 60.0
"""Seconds after which a worker that dies is restarted without further delay."""
_MARGIN: Final = 15.0
"""Seconds beyond the grace that a worker has to end before it is killed."""
_REPORT: Final = 2.0
"""Seconds that a worker may take for its metrics; then its last ones count."""
_MAX_LINE: Final = 16 * 1024 * 1024


def supervise(settings: Settings) -> int:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT; the exit code.

    `OSError` where the port cannot be had.
    """
    log.configure(settings.log_level)
    held, port = reserve(settings.http.host, settings.http.port)
    try:
        shared = replace(settings, http=replace(settings.http, port=port))
        return asyncio.run(_Supervisor(shared).run())
    finally:
        for sock in held:
            sock.close()


class _Worker:
    """One place among the workers, and the process that fills it now."""

    def __init__(self, number: int, settings: Settings) -> None:
        self.number = number
        self.settings = settings
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self.where: dict[str, str] = {}
        self.figures = ""
        """Its metrics, as it last reported them."""
        self.report: asyncio.Future[None] | None = None

    def has_reported(self) -> None:
        """Nobody has to wait for its report any longer."""
        if self.report is not None and not self.report.done():
            self.report.set_result(None)

    def send(self, message: dict[str, Any]) -> None:
        """Send it a line, if it is there."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")


class _End(NamedTuple):
    """How a worker ended."""

    message: str
    code: int | None
    """Its exit code, negative for a signal; None where it never began."""
    reason: str
    """Empty where only the worker knows, and has told the log."""


class _Supervisor:
    def __init__(self, settings: Settings) -> None:
        self._grace = settings.http.shutdown_grace
        self._workers = [_Worker(n, _share(settings, n)) for n in range(settings.workers)]
        self._stopping = asyncio.Event()
        self._gone: list[str] = []
        """What workers that died had last reported."""
        self._reports = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed = 0
        """The exit code of a worker that could not start in the first place."""

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        signals.handle(loop.add_signal_handler, self._reload)
        # The first one alone shows whether the settings work, with one line if they do not.
        first, *others = self._workers
        running = [asyncio.create_task(self._keep(first))]
        await _either(first.ready, running)
        if first.ready.is_set() and not self._stopping.is_set():
            running += [asyncio.create_task(self._keep(worker)) for worker in others]
            for worker in others:
                await _either(worker.ready, running)
        if not self._stopping.is_set():
            log.ready(first.where["ready"], first.where["store"])
        await self._stopping.wait()
        deadline = time.monotonic() + self._grace + _MARGIN
        _, late = await asyncio.wait(running, timeout=deadline - time.monotonic())
        if late:
            log.error("workers do not end: killed", workers=len(late))
            self._signal(signal.SIGKILL)
            await asyncio.wait(running)
        for task in self._tasks:
            task.cancel()
        if not self._failed:
            log.info("stopped")
        return self._failed or int(bool(late))

    def _stop(self) -> None:
        """End all workers in order; a second time: at once."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def _reload(self) -> None:
        """Have all workers read their files again."""
        log.info("SIGHUP received: the workers read their files again")
        self._signal(signal.SIGHUP)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.send_signal(number)

    async def _keep(self, worker: _Worker) -> None:
        """Run the worker, and again whenever it dies or cannot be started, until we stop."""
        delay = _FIRST_DELAY
        while not self._stopping.is_set():
            started = time.monotonic()
            end = await self._run_once(worker)
            if self._stopping.is_set():
                return
            if not worker.ready.is_set():
                if end.reason:
                    log.error(end.message, worker=worker.number, code=end.code, reason=end.reason)
                self._failed = end.code or 1
                self._stop()
                return
            delay = _FIRST_DELAY if time.monotonic() - started > _STABLE else delay * 2
            delay = min(delay, _LONGEST_DELAY)
            fields: dict[str, object] = {"worker": worker.number, "code": end.code}
            if end.reason:
                fields["reason"] = end.reason
            log.error(end.message, None, **fields, restart_in=delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _run_once(self, worker: _Worker) -> _End:
        """Start it and hear it until it ends. Whatever goes wrong ends this worker alone."""
        reason = ""
        try:
            process = await self._start(worker)
        except Exception as error:  # noqa: BLE001 - no failure may cost a worker its place
            return _End("a worker cannot be started", None, _reason(error))
        try:
            await self._listen(worker, process)
        except Exception as error:  # noqa: BLE001 - as above
            reason = f"what it sends is not understood: {_reason(error)}"
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        code = await process.wait()
        worker.process = None
        if worker.figures:
            self._gone.append(worker.figures)
            worker.figures = ""
        worker.has_reported()
        return _End("a worker died", code, reason)

    async def _start(self, worker: _Worker) -> asyncio.subprocess.Process:
        with signals.held():
            # In a process group of its own: Ctrl-C is for us to hand on.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "epoch.cli.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                process_group=0,
                limit=_MAX_LINE,
            )
        worker.process = process
        settings = worker.settings
        if self._workers[0].ready.is_set():
            settings = replace(settings, store=replace(settings.store, create=False))
        pickled = base64.b64encode(pickle.dumps(settings)).decode()
        worker.send({"settings": pickled, "first": worker.number == 0})
        if self._stopping.is_set():
            process.terminate()
        return process

    async def _listen(self, worker: _Worker, process: asyncio.subprocess.Process) -> None:
        """Take its messages until it has none left. ValueError: what it sent is no message."""
        assert process.stdout is not None
        async for line in process.stdout:
            self._hear(worker, _parse(line))

    def _hear(self, worker: _Worker, message: dict[str, Any]) -> None:
        if "ready" in message:
            worker.where = message
            worker.ready.set()
        elif "ask" in message:
            task = asyncio.create_task(self._tell_totals(worker, message["ask"]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            worker.figures = message["text"]
            worker.has_reported()

    async def _tell_totals(self, asking: _Worker, number: int) -> None:
        loop = asyncio.get_running_loop()
        waits = []
        for worker in self._workers:
            if worker.process is not None and worker.ready.is_set():
                if worker.report is None or worker.report.done():
                    worker.report = loop.create_future()
                    worker.send({"report": number})
                waits.append(worker.report)
        if waits:
            await asyncio.wait(waits, timeout=_REPORT)
        if len(self._gone) > 1:
            self._gone = [total([], self._gone)]
        text = total([w.figures for w in self._workers if w.figures], self._gone)
        asking.send({"totals": number, "text": text})


def _parse(line: bytes) -> dict[str, Any]:
    """A worker's message (`epoch.process.supervisor_link`), or ValueError."""
    message: dict[str, Any] = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a message of a worker")
    fields = message.keys()
    if fields == {"figures", "text"}:
        total([message["text"]])
    elif fields not in ({"ready", "store"}, {"ask"}):
        raise ValueError("not a message of a worker")
    return message


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _share(settings: Settings, number: int) -> Settings:
    """The settings of one worker: its share of the memory; only the first collects garbage."""
    upload = settings.upload
    one_part = 1 << (upload.part_size - 1).bit_length()
    budget = max(upload.budget // settings.workers, one_part)
    garbage = settings.garbage if number == 0 else replace(settings.garbage, interval=0)
    return replace(settings, upload=replace(upload, budget=budget), garbage=garbage)


async def _either(ready: asyncio.Event, running: list[asyncio.Task[None]]) -> None:
    """Wait until a worker is ready, or one has ended for good."""
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({waiting, *running}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
