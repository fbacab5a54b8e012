"""DELETE of a blob against a push of a manifest that names it, and against a push of the blob, in
every order of their steps that has three switches."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from epoch import layout
from epoch.config import MIB, UploadSettings
from epoch.errors import Code, RegistryError
from epoch.garbage.pins import Pins, Times
from epoch.oci.digest import Digest
from epoch.registry import manifests
from epoch.store.base import Store, StoreError
from epoch.store.directory.store import DirectoryStore
from epoch.upload.blobs import BlobUploads
from tests.integration.registry.conftest import House
from tests.tools.aged import Aged, Stepped

TIMES = Times(view=0, announce=0, patience=0.002, poll=0.0005)
LAYER = b"a layer"
DIGEST = Digest.of(LAYER)
ENOUGH = 40
"""More steps than anybody has that need not wait."""

Push = Callable[[Store, bytes], Awaitable[str]]


async def outcome(answer: Awaitable[object]) -> str:
    """What a client sees."""
    try:
        await answer
    except RegistryError as error:
        return error.code.name.lower()
    except StoreError as error:
        return "later" if error.retry_after else str(error)
    return "done"


async def delete(store: Store) -> str:
    house = House(store, TIMES)
    return await outcome(house.blobs.delete(house.request("DELETE"), "b", str(DIGEST)))


async def push_manifest(store: Store, manifest: bytes) -> str:
    """By a client that has pushed the layer long ago."""
    house = House(store, TIMES)
    try:
        return await outcome(house.put("a", "v1", manifest))
    finally:
        await house.dashboard.close()


async def push_layer(store: Store, _manifest: bytes) -> str:
    settings = UploadSettings(part_size=5 * MIB, budget=8 * MIB, hash_threads=0)
    uploads = BlobUploads(store, settings, House(store).membership.has, None, Pins(store, TIMES))
    request = House(store).request("PUT", None, LAYER, content_length=str(len(LAYER)))
    try:
        return await outcome(uploads.put(request, "a", str(DIGEST)))
    finally:
        await uploads.close()


class Lab:
    """A store with a blob that nothing names, and a manifest to be pushed that does."""

    def __init__(self, store: Aged, manifest: bytes, push: Push) -> None:
        self.store = store
        self.manifest = manifest
        self.push = push
        self.was_announced = False
        """Whether the deletion had been, when the push was answered."""

    @classmethod
    async def make(cls, root: Path, push: Push) -> Lab:
        store = Aged(DirectoryStore(root, fsync=False))
        await store.check()
        lab = cls(store, await House(store).image(LAYER), push)
        await lab.reset()
        return lab

    async def reset(self) -> None:
        for info in [info async for info in self.store.list("")]:
            if not info.key.startswith("blobs/"):
                await self.store.delete(info.key)
        await self.store.put(layout.blob(DIGEST), LAYER)

    async def race(self, counts: tuple[int, ...], *, push_first: bool) -> tuple[str, str, int]:
        """Each does so many steps in turn, then both come to their end. Returns what became of the
        deletion and of the push, and how many of the turns were needed."""
        stores = [Stepped(self.store), Stepped(self.store)]
        tasks = [
            asyncio.ensure_future(delete(stores[0])),
            asyncio.ensure_future(self.push(stores[1], self.manifest)),
        ]

        async def run(who: int, count: int | None) -> int:
            before, ended = stores[who].done, tasks[who].done()
            await stores[who].run(tasks[who], count)
            if who == 1 and tasks[1].done() and not ended:
                notes = [info async for info in self.store.list(layout.BLOB_DELETIONS)]
                self.was_announced = bool(notes)
            return stores[who].done - before

        needed = 0
        for turn, count in enumerate(counts):
            if await run((turn + push_first) % 2, count) == count:
                needed = turn + 1
        await run(0, None)
        await run(1, None)
        return await tasks[0], await tasks[1], needed

    async def is_here(self, key: str) -> bool:
        return await self.store.head(key) is not None


async def every_race(lab: Lab) -> AsyncIterator[tuple[str, str]]:
    """Two turns of any length and a third, after which each comes to its end in turn."""
    for push_first in (False, True):
        for first in range(ENOUGH):
            reached = 0
            for second in range(1, ENOUGH):
                for third in range(1, ENOUGH):
                    await lab.reset()
                    counts = (first, second, third)
                    deletion, push, reached = await lab.race(counts, push_first=push_first)
                    yield deletion, push
                    if reached < 3:  # the third turn is at its end
                        break
                if reached < 2:
                    break
            if first and reached < 1:
                break


async def test_no_manifest_loses_its_layer(tmp_path: Path) -> None:
    lab = await Lab.make(tmp_path, push_manifest)
    seen: Counter[tuple[str, str]] = Counter()
    async for deletion, push in every_race(lab):
        seen[deletion, push] += 1
        here = await lab.is_here(layout.blob(DIGEST))
        if push == "done":
            assert here, (deletion, push)
        else:
            assert not await lab.is_here(layout.manifest_by_tag("a", "v1"))
        assert here == (deletion != "done")
        left = [info async for info in lab.store.list(layout.BLOB_DELETIONS)]
        assert all(info.size == 0 for info in left)
        assert len(left) == (deletion == "done")
    assert {deletion for deletion, _ in seen} == {"done", "unsupported"}
    assert {push for _, push in seen} == {"done", "manifest_blob_unknown", "later"}
    assert seen["unsupported", "done"] > 100
    assert seen["done", "manifest_blob_unknown"] > 100
    await lab.store.close()


async def test_it_would_without_the_second_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the races above do meet the moments that matter."""

    async def nothing(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(manifests, "confirm_present", nothing)
    lab = await Lab.make(tmp_path, push_manifest)
    async for _, push in every_race(lab):
        if push == "done" and not await lab.is_here(layout.blob(DIGEST)):
            break
    else:
        pytest.fail("no race loses a layer")
    await lab.store.close()


async def test_a_blob_that_is_pushed_again_right_then_is_not_lost(tmp_path: Path) -> None:
    """A 201 is followed by a readable blob, or the whole deletion comes after it."""
    lab = await Lab.make(tmp_path, push_layer)
    seen: Counter[tuple[str, str, bool]] = Counter()
    async for deletion, push in every_race(lab):
        here = await lab.is_here(layout.blob(DIGEST))
        seen[deletion, push, here] += 1
        if push == "done" and not here:
            assert not lab.was_announced
    assert {deletion for deletion, _, _ in seen} == {"done"}
    assert {push for _, push, _ in seen} == {"done", "later"}
    assert seen["done", "done", True] > 20
    assert seen["done", "later", False] > 20
    await lab.store.close()


async def test_a_deletion_that_died_holds_pushes_back_for_a_while(tmp_path: Path) -> None:
    lab = await Lab.make(tmp_path, push_manifest)
    note = f"{layout.BLOB_DELETIONS}sha256-{DIGEST.hex}/1"
    await lab.store.put(note, b"under way")
    assert await push_manifest(lab.store, lab.manifest) == "later"
    assert await push_layer(lab.store, b"") == "later"
    lab.store.older(2 * TIMES.valid, note)
    assert await push_manifest(lab.store, lab.manifest) == "done"
    lab.store.older(2 * TIMES.valid + 1, note)
    assert await delete(lab.store) == Code.UNSUPPORTED.name.lower()
    assert await lab.is_here(note)  # nobody had to announce anything
    await lab.store.close()
