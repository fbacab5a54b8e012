"""Multipart uploads that the store does not let go: they hold up nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epoch.garbage.report import Report
from epoch.garbage.uploads import collect_uploads
from epoch.store.base import Multipart, StoreError
from epoch.store.directory.store import DirectoryStore
from epoch.upload.session import Session
from epoch.upload.session_store import Sessions


class Stuck(DirectoryStore):
    """Does not abort the uploads in `stuck`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.stuck: set[Multipart] = set()

    async def abort_multipart(self, upload: Multipart) -> None:
        if upload in self.stuck:
            raise StoreError(f"abort {upload.key}: it stays")
        await super().abort_multipart(upload)

    async def uploads(self) -> set[Multipart]:
        return {upload async for upload, _ in self.list_multiparts("")}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Stuck]:
    store = Stuck(tmp_path / "store")
    await store.check()
    yield store
    await store.close()


async def test_garbage_collection_goes_on_with_the_others(store: Stuck) -> None:
    """And reports the failure when it has done all that it could."""
    keys = [f"blobs/sha256/{number:064x}" for number in range(40)]
    uploads = [await store.create_multipart(key) for key in keys]
    of_session = await store.create_multipart(f"_uploads/{'0' * 32}/data")
    store.stuck = {uploads[0], uploads[20]}
    report = Report()
    with pytest.raises(StoreError, match="it stays"):
        await collect_uploads(store, report, lambda *_: None, lifetime=-60.0, dry_run=False)
    assert await store.uploads() == store.stuck
    assert of_session not in await store.uploads()
    assert report.multiparts == 39


async def test_the_end_of_a_session_goes_on_with_the_others(store: Stuck) -> None:
    session = Session("0" * 32, "a/b", generation=3)
    first, second, third = [await store.create_multipart(session.data_key) for _ in range(3)]
    store.stuck = {first}
    await store.put(f"{session.folder}tail/1", b"x")
    await store.put(session.state_key(), b"the last one")
    await Sessions(store).clear(session, first)
    assert await store.uploads() == {first}
    assert second != third
    assert [info.key async for info in store.list("_uploads/")] == [session.state_key()]
