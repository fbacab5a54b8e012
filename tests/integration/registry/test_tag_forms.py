"""The digest that a tag stands for: found out once for each object, never out of date."""

from __future__ import annotations

import os
from pathlib import Path

from epoch import layout
from epoch.oci.digest import Digest
from epoch.registry.stored import StoredManifests
from epoch.registry.tags import TagForms
from epoch.store.directory.store import DirectoryStore
from tests.tools.failing import Failing

DATA = b'{"schemaVersion": 2}'
KEY = layout.manifest_by_tag("a/b", "v1")
SHA256, SHA512 = Digest.of(DATA), Digest.of(DATA, "sha512")


async def test_what_is_remembered_holds_for_one_object(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, fsync=False)
    await store.check()
    counted = Failing(store)
    writer, reader = TagForms(store), StoredManifests(counted.as_store)
    for digest in (SHA256, SHA512):
        await store.put(layout.manifest_by_digest("a/b", digest), DATA)

    async def move_to(digest: Digest, modified: float) -> None:
        await writer.remember("a/b", "v1", digest)
        await store.put(KEY, DATA)
        os.utime(tmp_path / KEY, (modified, modified))

    # The bytes stay the same: nothing but the object's time tells one push from the next.
    for number, digest in enumerate((SHA256, SHA512, SHA512, SHA256)):
        await move_to(digest, 1000.0 + number)
        counted.calls.clear()
        for _ in range(3):
            assert await reader.by_tag("a/b", "v1") == (DATA, digest)
        looks = ["get", "head"] if digest is SHA256 else ["get", "head", "head"]
        assert counted.calls == ["fetch", *looks, "fetch", "fetch"]
    await store.delete(KEY)
    assert await reader.by_tag("a/b", "v1") is None
    await store.close()


async def test_what_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    """Its successor could have the same time, where the store counts in seconds."""
    store = DirectoryStore(tmp_path, fsync=False)
    await store.check()
    counted = Failing(store)
    reader = StoredManifests(counted.as_store)
    await TagForms(store).remember("a/b", "v1", SHA512)
    await store.put(layout.manifest_by_digest("a/b", SHA512), DATA)
    await store.put(KEY, DATA)
    counted.calls.clear()
    for _ in range(2):
        assert await reader.by_tag("a/b", "v1") == (DATA, SHA512)
    assert counted.calls == ["fetch", "get", "head", "head"] * 2
    await store.close()


async def test_a_tag_that_lost_its_form_stands_for_the_copy_that_is_there(tmp_path: Path) -> None:
    """A deletion of the tag beside its push may take the form and not the tag."""
    store = DirectoryStore(tmp_path, fsync=False)
    await store.check()
    await store.put(layout.manifest_by_digest("a/b", SHA512), DATA)
    await store.put(KEY, DATA)
    assert await StoredManifests(store).by_tag("a/b", "v1") == (DATA, SHA512)
    await store.close()
