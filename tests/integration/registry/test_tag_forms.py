"""The digest that a tag stands for: read once for each object, never out of date."""

from __future__ import annotations

import os
from pathlib import Path

from epoch.digest import Digest
from epoch.registry.tags import TagForms
from epoch.store import keys
from epoch.store.directory import DirectoryStore
from tests.tools.failing import Failing

DATA = b'{"schemaVersion": 2}'
KEY = keys.manifest_by_tag("a/b", "v1")
SHA256, SHA512 = Digest.of(DATA), Digest.of(DATA, "sha512")


async def test_what_is_remembered_holds_for_one_object(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, fsync=False)
    await store.check()
    counted = Failing(store)
    writer, reader = TagForms(store), TagForms(counted.as_store)

    async def move_to(digest: Digest, modified: float) -> None:
        await writer.remember("a/b", "v1", digest)
        await store.put(KEY, DATA)
        os.utime(tmp_path / KEY, (modified, modified))

    # The bytes stay the same: nothing but the object's time tells one push from the next.
    for number, digest in enumerate((SHA256, SHA512, SHA512, SHA256)):
        await move_to(digest, 1000.0 + number)
        counted.calls.clear()
        for _ in range(3):
            assert await reader.read("a/b", "v1") == (DATA, digest)
        assert counted.calls == ["fetch", "get", "fetch", "fetch"]
    await store.delete(KEY)
    assert await reader.read("a/b", "v1") is None
    await store.close()


async def test_what_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    """Its successor could have the same time, where the store counts in seconds."""
    store = DirectoryStore(tmp_path, fsync=False)
    await store.check()
    counted = Failing(store)
    reader = TagForms(counted.as_store)
    await reader.remember("a/b", "v1", SHA512)
    await store.put(KEY, DATA)
    counted.calls.clear()
    for _ in range(2):
        assert await reader.read("a/b", "v1") == (DATA, SHA512)
    assert counted.calls == ["fetch", "get", "fetch", "get"]
    await store.close()
