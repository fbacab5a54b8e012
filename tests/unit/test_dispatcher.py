"""Which parts of an upload are kept when one fails: those before the first gap."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from epoch._fastio import Pool, fill
from epoch.store.base import Multipart, Part, Store, StoreError
from epoch.upload.dispatcher import Dispatcher, ExistingUpload

SIZE = 4096


class SlowStore:
    """Each part ends when, and as, it is told to."""

    def __init__(self) -> None:
        self.answers: dict[int, asyncio.Future[None]] = {}

    async def create_multipart(self, key: str) -> Multipart:
        return Multipart(key, "1")

    async def put_part(self, _upload: Multipart, number: int, offset: int, data: Any) -> Part:
        with memoryview(data) as view:
            size = view.nbytes
        assert offset == (number - 1) * SIZE
        self.answers[number] = asyncio.get_running_loop().create_future()
        await self.answers[number]
        return Part(number, size, "")

    async def abort_multipart(self, _upload: Multipart) -> None:
        pass


@pytest.mark.parametrize(
    ("ends", "kept"),
    [
        ("3- 4+ 1+ 2+", 2),  # what is before it is waited for
        ("3- 1+ 2-", 1),  # and may fail too
        ("1- ", 0),  # what is behind it is not
        ("4+ 2+ 1+ 3-", 2),
        ("5- 1+ 2+ 3+ 4+", 4),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
async def test_what_is_stored_without_a_gap(ends: str, kept: int, before: int) -> None:
    store, pool = SlowStore(), Pool(8 * SIZE)
    failures: list[Exception] = []
    begun = ExistingUpload(
        Multipart("data", "0") if before else None,
        [Part(number, SIZE, "") for number in range(1, before + 1)],
    )
    dispatcher = Dispatcher(
        cast(Store, store),
        "data",
        8,
        on_room=lambda: None,
        on_failure=failures.append,
        begun=begun,
    )
    for _ in range(5):
        part = pool.lend(SIZE, SIZE, SIZE)
        assert part is not None
        part.advance(fill(part, bytes(SIZE)))
        dispatcher.ship(part)
    async with asyncio.timeout(5):
        while len(store.answers) < 5:  # noqa: ASYNC110 - they begin on their own
            await asyncio.sleep(0)
        settling: asyncio.Task[ExistingUpload] | None = None
        for end in ends.split():
            answer = store.answers[before + int(end[:-1])]
            if end[-1] == "+":
                answer.set_result(None)
            else:
                answer.set_exception(StoreError("as told"))
            for _ in range(20):  # turns of the loop, however busy the machine is
                await asyncio.sleep(0)
            if settling is None and failures:
                settling = asyncio.create_task(dispatcher.settle_begin())
        assert settling is not None
        upload, parts = await settling
    assert upload == (begun.upload or Multipart("data", "1"))
    assert [part.number for part in parts] == list(range(1, before + kept + 1))
    await dispatcher.abort()
    assert pool.lent == 0
