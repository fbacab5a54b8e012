"""A server within the test's own loop, so that its memory and its tasks can be looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from epoch._fastio import live_views
from epoch.app import App
from epoch.config import MIB, HttpSettings, Settings, UploadSettings
from epoch.http.listener import Service
from epoch.metrics import metrics
from epoch.process.serving import make_service
from epoch.store.base import Store
from epoch.upload.budget import Budget

PART: Final = 5 * MIB
"""The smallest part size that there is."""

_SETTLE_SECONDS: Final = 20.0


async def eventually(condition: Callable[[], bool], seconds: float = _SETTLE_SECONDS) -> None:
    """Wait until `condition` holds; TimeoutError where it does not in that time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - looks at what has no event
            await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers on `port`."""

    app: App
    service: Service
    store: Store
    port: int

    @property
    def budget(self) -> Budget:
        """Its part buffers."""
        return self.app._uploads.budget

    async def until_idle(self) -> None:
        """Wait until no request and no clean-up behind one runs."""
        await eventually(lambda: not self.service.tasks and not self.app._uploads._pushes._cleanups)

    async def assert_holds_nothing(self) -> None:
        """Once idle, no buffer is lent and no multipart upload is open in the store."""
        await self.until_idle()
        assert self.budget.pool.lent == 0
        assert self.budget.waiting == 0
        assert [upload async for upload, _ in self.store.list_multiparts("")] == []

    async def keys(self) -> list[str]:
        """The keys of all objects, but for the secret of the sessions, which is made once."""
        keys = [info.key async for info in self.store.list("")]
        return [key for key in keys if key != "_uploads/secret"]


@asynccontextmanager
async def serving(
    store: Store,
    *,
    budget: int = 64 * MIB,
    parts_in_flight: int = 4,
    hash_threads: int = 0,
    http: HttpSettings | None = None,
    leaves: bool = False,
    alone: bool = True,
) -> AsyncIterator[Running]:
    """Serve `store` on a free port, and take the server down again.

    Fails where anything is left at the end: tasks, lent buffers, views of them, multipart uploads
    (these may be, with `leaves`: the store was down when they were to be aborted). What cannot be
    told apart from another server's in this loop is not looked at unless it is `alone`.
    """
    tasks = asyncio.all_tasks()
    settings = Settings(
        http=http or HttpSettings(),
        upload=UploadSettings(
            part_size=PART,
            budget=budget,
            parts_in_flight=parts_in_flight,
            hash_threads=hash_threads,
        ),
    )
    multiparts = metrics.multiparts
    app = App(settings, store)
    service = make_service(settings, app)
    _, port = await service.listen("127.0.0.1", 0)
    running = Running(app, service, store, port)
    try:
        yield running
        if leaves:
            await running.until_idle()
            assert running.budget.pool.lent == 0
        else:
            await running.assert_holds_nothing()
            assert not alone or metrics.multiparts == multiparts
    finally:
        await service.close(0)
        await app.close()
    if not alone:
        return
    assert live_views() == 0
    await asyncio.sleep(0)
    # A fixture is taken down by another task than the one that set it up.
    assert asyncio.all_tasks() - tasks - {asyncio.current_task()} == set()
