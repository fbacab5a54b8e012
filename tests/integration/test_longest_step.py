"""The server's loop stands still for nobody: no step of it is longer than 10 ms of CPU."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from epoch.config import MIB
from tests.tools.client import put_blob
from tests.tools.longest_step import LongestStep
from tests.tools.server import Server

pytestmark = pytest.mark.alone

DATA = random.Random(13).randbytes(12 * MIB)
LIMIT = 10.0
"""Milliseconds."""
ATTEMPTS = 3
"""What shares our core's caches lengthens a step; code that takes too long does so each time."""


@pytest.mark.parametrize("threads", ["0", "1"])
async def test_many_pushes_at_once(tmp_path: Path, threads: str) -> None:
    """Enough of them, each with a buffer, that all are hashed side by side where the CPU can."""
    blobs = [b"%d" % number + DATA for number in range(64)]
    settings = {"EPOCH_BUFFER_BUDGET": "1GiB", "EPOCH_HASH_THREADS": threads}
    for attempt in range(ATTEMPTS):
        measured = LongestStep(tmp_path / f"steps-{attempt}")
        place = tmp_path / f"store-{attempt}"
        server = await asyncio.to_thread(Server, place, settings, before=measured.before)
        try:
            answers = await asyncio.gather(*(put_blob(server.port, each) for each in blobs))
            assert [answer.status for answer in answers] == [201] * len(blobs)
            await asyncio.to_thread(server.stop)
        finally:
            server.kill()
        if measured.milliseconds() < LIMIT:
            return
    pytest.fail(f"the loop stood still:\n{measured.table()}")
