"""The tool that measures the loop's longest step: it sees what is long, under its own name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tools.longest_step import LongestStep

PROGRAM = """
import asyncio, time, uvloop

def burn(milliseconds):
    until = time.thread_time() + milliseconds / 1000
    while time.thread_time() < until:
        pass

class Receiver(asyncio.BufferedProtocol):
    def get_buffer(self, size):
        return bytearray(100)

    def buffer_updated(self, count):
        burn(40)

async def turn():
    await asyncio.sleep(0)
    burn(30)

async def main():
    loop = asyncio.get_running_loop()
    loop.call_soon(burn, 20)
    server = await loop.create_server(Receiver, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x")
    time.sleep(0.2)  # the clock's time, and no CPU time
    await asyncio.create_task(turn())
    await asyncio.sleep(0.2)
    writer.close()
    server.close()

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


def test_each_kind_of_step_is_seen(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    measured = LongestStep(tmp_path / "steps")
    subprocess.run(
        [*measured.before, sys.executable, "-m", "program"],
        check=True,
        timeout=30,
        env={"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"},
    )
    lines = [line.split(" ms  ") for line in measured.table().splitlines()]
    longest = {name.rpartition(".")[2]: float(ms) for ms, name in lines}
    assert 40 <= measured.milliseconds() < 200
    assert 40 <= longest["buffer_updated"] < 200
    assert 30 <= longest["turn"] < 200
    assert 20 <= longest["burn"] < 200
