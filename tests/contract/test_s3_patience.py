"""A store that is away for a while: how long a call is repeated, how often, and what it costs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from epoch.config import StoreSettings
from epoch.process.stores import open_store
from epoch.store.base import StoreError
from epoch.store.s3.calls import Patience
from epoch.store.s3.retry import RetryBudget
from epoch.store.s3.store import S3Store
from tests.contract.scripts import (
    CALLS,
    FAST,
    OBJECT,
    ONCE,
    UPLOAD,
    answering,
    reset,
    silent,
    stubbed,
    well,
)
from tests.contract.stub import Call, Script, serve

AWAY: dict[str, Script] = {
    "slow-down": answering(503, "SlowDown"),
    "429": answering(429, "TooManyRequests"),
    "503": answering(503, ""),
    "reset": reset,
}


def away(seconds: float, fault: Script) -> Script:
    """`fault` for so long, from the first call on, then well."""
    begun: list[float] = []

    async def script(call: Call) -> None:
        begun.append(time.monotonic())
        await (fault if begun[-1] - begun[0] < seconds else well)(call)

    return script


@pytest.mark.parametrize("kind", AWAY)
async def test_calls_outlive_an_outage(kind: str) -> None:
    """Four attempts were over after half a second where connections broke."""

    async def outlive(name: str) -> None:
        async with stubbed(away(1.5, AWAY[kind]), replace(FAST, repeat=10.0)) as (store, stub):
            begun = time.monotonic()
            await CALLS[name](store)
            assert 1.5 <= time.monotonic() - begun < 9
        assert len(stub.calls) < 40

    await asyncio.gather(*(outlive(name) for name in ("head", "part", "complete", "list", "move")))


@pytest.mark.parametrize("kind", AWAY)
async def test_a_call_ends_with_its_patience(kind: str) -> None:
    for seconds in (0.0, 1.0):
        async with stubbed(AWAY[kind], replace(FAST, repeat=seconds)) as (store, stub):
            begun = time.monotonic()
            with pytest.raises(StoreError) as caught:
                await store.head("key")
            assert seconds <= time.monotonic() - begun < seconds + 1
        assert caught.value.retry_after is not None
        assert (len(stub.calls) == 1) == (seconds == 0.0)


async def test_a_refused_connection_is_tried_again() -> None:
    """While a store starts again, nothing listens at its port."""
    async with stubbed(well) as (_, stub):
        settings = stub.settings
    store = S3Store(settings, replace(FAST, repeat=10.0))
    task = asyncio.create_task(store.get("key", 10))
    await asyncio.sleep(0.5)
    host, _, port = settings.endpoint.partition(":")

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n")[0].split(" ")
        await well(Call(0, method, target, {}, reader, writer))
        writer.close()

    async with await asyncio.start_server(answer_one, host, int(port)):
        assert await asyncio.wait_for(task, 8) == OBJECT
    await store.close()


async def test_the_check_at_start_has_one_attempt() -> None:
    async with stubbed(answering(503, "SlowDown"), Patience()) as (store, stub):
        begun = time.monotonic()
        with pytest.raises(StoreError, match="SlowDown"):
            await store.check()
    assert len(stub.calls) == 1
    assert time.monotonic() - begun < 2


async def test_what_is_final_is_not_repeated() -> None:
    for status, code in ((403, "AccessDenied"), (507, "XMinioStorageFull"), (501, "")):
        async with stubbed(answering(status, code), Patience()) as (store, stub):
            with pytest.raises(StoreError):
                await store.put_part(UPLOAD, 1, 0, b"data")
        assert len(stub.calls) == 1


async def test_an_outage_does_not_multiply_the_load() -> None:
    """300 calls are each made once; all repetitions together are 100, and 10 a second."""
    seconds = 3.0
    patience = Patience(repeat=seconds)
    async with stubbed(answering(503, "ServiceUnavailable"), patience) as (store, stub):
        calls = [store.head(f"key{number}") for number in range(300)]
        begun = time.monotonic()
        results = await asyncio.gather(*calls, return_exceptions=True)
        took = time.monotonic() - begun
    assert all(isinstance(result, StoreError) for result in results)
    assert len(stub.calls) <= 300 + 100 + 10 * (took + 1)
    assert took < seconds + 4


async def test_who_finds_no_budget_waits_for_it() -> None:
    """Many more calls than tokens: none fails because others have spent them, and once the store
    works again they all go on soon."""
    script = away(1.0, answering(503, "ServiceUnavailable"))
    async with stubbed(script, Patience(repeat=30.0)) as (store, _):
        begun = time.monotonic()
        found = await asyncio.gather(*(store.head(f"key{number}") for number in range(600)))
        took = time.monotonic() - begun
    assert all(info is not None and info.size == 10 for info in found)
    assert took < 20


async def test_the_budget_comes_back_with_time() -> None:
    budget = RetryBudget()
    begun = time.monotonic()
    for _ in range(100):
        await budget.take()
    assert time.monotonic() - begun < 0.09  # else some have come back meanwhile
    begun = time.monotonic()
    for _ in range(5):
        await budget.take()
    assert 0.3 <= time.monotonic() - begun < 1.0
    for _ in range(5):
        budget.give_back()
    begun = time.monotonic()
    for _ in range(5):
        await budget.take()
    assert time.monotonic() - begun < 0.09


async def test_one_who_gives_up_takes_no_token() -> None:
    budget = RetryBudget()
    for _ in range(101):
        await budget.take()
    waiting = [asyncio.create_task(budget.take()) for _ in range(20)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    begun = time.monotonic()
    await budget.take()
    assert time.monotonic() - begun < 0.3


async def test_late_askers_end_in_time() -> None:
    """The store falls silent: the first ask for themselves, the others wait for one another, and
    nobody for longer than one call may take."""
    patience = replace(FAST, answer=0.3, repeat=0.4, check=0.3)
    async with stubbed(silent, patience) as (store, _):

        async def ask(delay: float) -> float:
            await asyncio.sleep(delay)
            begun = time.monotonic()
            with pytest.raises(StoreError, match=r"in time|answers nobody"):
                await store.fetch("key", 100)
            return time.monotonic() - begun

        took = await asyncio.gather(*(ask(0.1 * number) for number in range(20)))
    assert max(took) < patience.longest + 0.5, took


async def test_the_log_says_why_calls_take_so_long(caplog: pytest.LogCaptureFixture) -> None:
    async with stubbed(answering(503, "SlowDown"), replace(FAST, repeat=0.5)) as (store, _):
        for _ in range(2):
            with pytest.raises(StoreError):
                await store.head("key")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "503" in lines[0]


async def test_the_setting_reaches_the_store() -> None:
    async with serve(answering(503, "SlowDown")) as stub:
        store = open_store(StoreSettings(s3=stub.settings, patience=1.0))
        begun = time.monotonic()
        with pytest.raises(StoreError):
            await store.head("key")
        assert 1.0 <= time.monotonic() - begun < 3.0
        await store.close()
    assert len(stub.calls) > 1


async def test_no_repetition_means_none() -> None:
    async with stubbed(answering(503, "SlowDown"), ONCE) as (store, stub):
        with pytest.raises(StoreError):
            await store.head("key")
    assert len(stub.calls) == 1
    assert Patience().repeat >= 120.0
