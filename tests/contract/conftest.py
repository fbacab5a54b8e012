"""The stores that the contract suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epoch.store.base import Store
from epoch.store.directory.store import DirectoryStore
from epoch.store.s3.store import S3Store
from tests.tools.memory import MemoryStore


@pytest.fixture(params=["directory", "s3", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store; what a test leaves in it is removed. `memory` is a tool of other tests, which
    may rely on it because it passes here."""
    made: Store
    if request.param == "directory":
        made = DirectoryStore(tmp_path / "store")
    elif request.param == "memory":
        made = MemoryStore()
    else:
        made = S3Store(request.getfixturevalue("s3_settings"))
    await made.check()
    yield made
    async for upload, _ in made.list_multiparts(""):
        await made.abort_multipart(upload)
    async for info in made.list(""):
        await made.delete(info.key)
    await made.close()
