"""A store that fails at any one call of a push: for a moment, or for good."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, replace
from typing import Final

import pytest

from epoch.config import MIB, S3Settings
from epoch.store.s3.calls import Patience
from epoch.store.s3.store import S3Store
from tests.faults.proxy import Fault, Kind, What, proxied
from tests.tools.client import Answer, Client, digest_of, get_blob, head, put_blob, request
from tests.tools.running import PART, eventually, serving

BIG = random.Random(3).randbytes(PART + 17)
SMALL = BIG[:70_000]

CALLS: Final[list[tuple[bytes, Kind, int]]] = [
    (BIG, "head", 1),
    (BIG, "create", 1),
    (BIG, "part", 1),
    (BIG, "part", 2),
    (BIG, "complete", 1),
    (SMALL, "head", 1),
    (SMALL, "put", 1),
]
"""Every call of a push, in order."""

IMPATIENT: Final = Patience(stall=3.0, answer=3.0, slow_answer=3.0, check=8.0, repeat=4.0)
LONGEST: Final = IMPATIENT.answer + IMPATIENT.repeat + IMPATIENT.answer
"""Seconds: a first attempt, the repetitions, the last one."""
MOST_CALLS: Final = 100
"""What one push, its abort and a pull may ask of a store that fails for so long."""
AT_ONCE: Final = 7
SLOW: Final = pytest.mark.slow
MORE: Final = ("reset", "503", "429", "slow-down")


@dataclass(frozen=True, slots=True)
class Case:
    """One push, and what hits it."""

    data: bytes
    fault: Fault

    def __repr__(self) -> str:
        return f"{len(self.data)} bytes, {self.fault}"


class Bench:
    """The bucket, reached without a proxy, and the pushes that are tried on it at once."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._direct = S3Store(settings)
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._opening = asyncio.Lock()  # a client's making blocks the loop, so one at a time

    async def run(self, cases: list[Case]) -> list[tuple[Case, Answer, float]]:
        """Push all, each through a proxy of its own: the answers, and their seconds."""
        try:
            return await asyncio.gather(*(self._one(*numbered) for numbered in enumerate(cases)))
        finally:
            await self._direct.close()

    async def _one(self, number: int, case: Case) -> tuple[Case, Answer, float]:
        own = f"{number}/"
        digest = digest_of(case.data)
        # A creation whose answer is lost is an upload that nobody knows of.
        orphan = case.fault.kind == "create" and case.fault.what == "lost"
        settings = replace(self._settings, prefix=self._settings.prefix + own)
        async with self._gate, proxied(settings, case.fault) as (proxy, through):
            store = S3Store(through, IMPATIENT)
            async with self._opening:
                await store.check()
            async with serving(store, budget=32 * MIB, leaves=orphan, alone=False) as running:
                started = time.monotonic()
                answer = await put_blob(running.port, case.data, digest)
                seconds = time.monotonic() - started
                assert proxy.reached.is_set(), case
                await running.until_idle()
                assert running.budget.pool.lent == 0
                proxy.faults.clear()
                pulled = await get_blob(running.port, digest)
                assert proxy.calls["any"] < MOST_CALLS, case
                if answer.status == 201:
                    assert pulled.digest == digest, case
                else:
                    assert pulled.status == 404, case
                    assert [info async for info in self._direct.list(own)] == [], case
                left = [upload async for upload, _ in self._direct.list_multiparts(own)]
                assert orphan or left == [], case
                for upload in left:
                    await self._direct.abort_multipart(upload)
        return case, answer, seconds


@pytest.mark.parametrize(
    "what", ["reset-body", "lost", "stall", "500", *(pytest.param(w, marks=SLOW) for w in MORE)]
)
async def test_a_fault_that_passes_is_not_seen(s3_settings: S3Settings, what: What) -> None:
    cases = [Case(data, Fault(what, kind, nth, 1)) for data, kind, nth in CALLS]
    for case, answer, _ in await Bench(s3_settings).run(cases):
        assert answer.status == 201, (case, answer)


@pytest.mark.parametrize(
    "what", ["500", *(pytest.param(w, marks=SLOW) for w in ("reset-body", "stall"))]
)
async def test_a_lasting_fault_is_told(s3_settings: S3Settings, what: What) -> None:
    cases = [Case(data, Fault(what, kind, nth)) for data, kind, nth in CALLS]
    for case, answer, seconds in await Bench(s3_settings).run(cases):
        assert answer.refusal == (503, "UNAVAILABLE"), (case, answer)
        assert int(answer.headers["retry-after"]) >= 1, case
        assert seconds < LONGEST + 8.0, case


@pytest.mark.parametrize("what", ["reset", "stall"])
async def test_a_store_that_dies_amid_a_push(s3_settings: S3Settings, what: What) -> None:
    """From its fourth call on nothing works, the abort neither: the client is told all the same,
    no memory is held, and what is left can be removed once the store is back."""
    direct = S3Store(s3_settings)
    async with proxied(s3_settings, Fault(what, "part", 2)) as (proxy, through):
        store = S3Store(through, Patience(stall=1.0, answer=1.0, slow_answer=1.0, repeat=2.0))
        await store.check()
        async with serving(store, budget=32 * MIB, leaves=True, alone=False) as running:
            target = f"/v2/a/b/blobs/{digest_of(BIG)}"
            async with Client(running.port) as client:
                await client.send(head("PUT", target, BIG) + BIG[:PART])
                await eventually(lambda: proxy.calls["part"] == 1)
                proxy.faults = [Fault(what)]
                await client.send(BIG[PART:])
                started = time.monotonic()
                assert (await client.answer()).refusal == (503, "UNAVAILABLE")
                seconds = time.monotonic() - started
            await running.until_idle()
            assert running.budget.pool.lent == 0
            proxy.faults.clear()
            assert (await request(running.port, "HEAD", target)).status == 404
    for upload in [upload async for upload, _ in direct.list_multiparts("")]:
        await direct.abort_multipart(upload)
    await direct.close()
    # Two seconds between two attempts of one; the abort, which takes as long, is not awaited.
    assert seconds < 8.0
