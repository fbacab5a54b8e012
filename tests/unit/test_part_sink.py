"""The sink of a push, where something goes wrong between the end of the body and its own."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from epoch._fastio import PartBuffer, Sha256, fill
from epoch.config import MIB, UploadSettings
from epoch.store.base import Store
from epoch.upload.budget import Budget
from epoch.upload.context import BodyPlan, UploadContext
from epoch.upload.hashing import Hashing
from epoch.upload.sink import PartSink
from tests.tools.running import eventually


class Over:
    """The `Flow` of a body whose last byte has come, and a `Shipper` that is never asked."""

    has_room = True

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def fail(self, error: Exception) -> None: ...

    def unread(self) -> int:
        return 0

    def ship(self, part: PartBuffer) -> None:
        pytest.fail("nothing is to be shipped")


@pytest.mark.parametrize("waits", [False, True])
async def test_a_refusal_of_memory_behind_the_end_of_a_body_is_told(waits: bool) -> None:
    budget = Budget(UploadSettings(part_size=5 * MIB, budget=10 * MIB))
    held = [await budget.acquire(5 * MIB, 5 * MIB) for _ in range(2)]
    first = asyncio.create_task(budget.acquire(5 * MIB, 5 * MIB))
    await asyncio.sleep(0)
    assert budget.waiting == 1
    flow = Over()
    settings = UploadSettings()
    context = UploadContext(cast(Store, None), settings, budget, Hashing(lanes=0))
    # Such a part is never to be had, as where the kernel refuses a mapping.
    plan = BodyPlan(Sha256(), limit=100, part_size=20 * MIB)
    sink = PartSink(context, flow, flow, plan, length=None)
    assert fill(sink.get_buffer(5), b"hello") == 5
    sink.received(5)
    settled = asyncio.create_task(sink.settle()) if waits else None
    await asyncio.sleep(0)
    for part in held:
        part.release()
    (await first).release()
    async with asyncio.timeout(2):
        await eventually(lambda: not budget.waiting)
        with pytest.raises(ValueError, match="can never be lent"):
            await (settled or sink.settle())
    assert sink.take_last() is None
    assert (sink.total, budget.pool.lent) == (0, 0)
