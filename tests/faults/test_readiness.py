"""`/readyz` over a real bucket that falls silent, fails, and comes back."""

from __future__ import annotations

import asyncio
import time

import pytest

from epoch.config import S3Settings
from epoch.store import readiness
from epoch.store.s3.store import S3Store
from tests.faults.proxy import Fault, What, proxied
from tests.tools.client import Client, request
from tests.tools.running import eventually, serving


async def status(port: int, path: str = "/readyz") -> int:
    return (await request(port, "GET", path)).status


@pytest.mark.parametrize("what", ["stall", "500", "reset"])
async def test_a_bucket_that_fails_and_comes_back(
    s3_settings: S3Settings, what: What, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "KEEP", 0.2)
    monkeypatch.setattr(readiness, "LIMIT", 1.0)
    async with proxied(s3_settings) as (proxy, through):
        store = S3Store(through)
        await store.check()
        async with serving(store) as running:
            assert await status(running.port) == 200
            calls = proxy.calls["any"]
            proxy.faults = [Fault(what)]
            await asyncio.sleep(0.3)
            began = time.monotonic()
            answers = await asyncio.gather(*(status(running.port) for _ in range(50)))
            assert answers == [503] * 50
            assert time.monotonic() - began < 3
            assert await status(running.port, "/healthz") == 200
            assert proxy.calls["any"] - calls <= 8  # the attempts of one question
            proxy.faults.clear()
            async with asyncio.timeout(20):
                while await status(running.port) != 200:  # noqa: ASYNC110 - in another process
                    await asyncio.sleep(0.1)
            assert (await request(running.port, "HEAD", "/readyz")).status == 200


async def test_it_says_no_while_the_server_ends(s3_settings: S3Settings) -> None:
    store = S3Store(s3_settings)
    await store.check()
    async with serving(store) as running, Client(running.port) as client:
        assert (await client.request("GET", "/readyz")).status == 200
        running.app.readiness.end()
        answer = await client.request("GET", "/readyz")
        assert (answer.status, answer.body) == (503, b"not ready\n")
        assert (await client.request("GET", "/healthz")).status == 200
    await eventually(lambda: not running.service.connections)
