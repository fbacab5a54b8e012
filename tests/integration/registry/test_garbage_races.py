"""Garbage collection against a push, in every order of their steps that has two switches."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from epoch import layout
from epoch.errors import Code, RegistryError
from epoch.garbage.collector import Collector
from epoch.garbage.pins import Pins, Times
from epoch.oci.digest import Digest
from epoch.registry.manifests import Manifests
from epoch.store.base import ObjectInfo, Store, StoreError
from epoch.store.directory.store import DirectoryStore
from tests.integration.registry.conftest import House
from tests.tools.aged import Aged, Stepped

HOUR = 3600.0
TIMES = Times(view=0, announce=0, patience=0.005, poll=0.001)
LAYER = b"an old layer"
DIGEST = Digest.of(LAYER)

FIRST_STEP = 2
"""The step of the collection before which a push cannot matter: it has not read a manifest yet."""
LAST_STEP = 18
"""The step by which its only sweep is over."""
MAX_STEPS = 20
"""As many steps as a push has that need not wait."""

Push = Callable[[Stepped, type[Pins], bytes], Awaitable[str]]


def house_over(store: Store, pins: Pins) -> House:
    house = House(store)
    house.manifests = Manifests(store, house.referrers, house.catalog, house.dashboard, 4096, pins)
    return house


async def push_manifest(store: Stepped, pins: type[Pins], manifest: bytes) -> str:
    """A client that knows from long ago that the layer is here."""
    house = house_over(store, pins(store, TIMES))
    try:
        await house.push("a", manifest)
    except RegistryError as error:
        return "unknown" if error.code is Code.MANIFEST_BLOB_UNKNOWN else str(error)
    except StoreError as error:
        return "later" if error.retry_after else str(error)
    return "stored"


async def push_all(store: Stepped, pins: type[Pins], manifest: bytes) -> str:
    """A client that asks for the layer, and pushes it where it is missing."""
    guard = pins(store, TIMES)
    try:
        for content in (b"{}", LAYER):
            if await guard.rely(Digest.of(content)) is None:
                await store.put(layout.blob(Digest.of(content)), content)
    except StoreError:
        return "later"
    outcome = await push_manifest(store, pins, manifest)
    assert outcome != "unknown", "the client was told that the layer is here"
    return outcome


class Unpinned(Pins):
    """What it would be without the agreement."""

    async def rely(self, digest: Digest) -> ObjectInfo | None:
        return await self._store.head(layout.blob(digest))


class Lab:
    """A store with one old blob that nothing names, and a manifest to be pushed that does."""

    def __init__(self, store: Aged, manifest: bytes) -> None:
        self.store = store
        self.manifest = manifest

    @classmethod
    async def make(cls, root: Path) -> Lab:
        store = Aged(DirectoryStore(root, fsync=False))
        await store.check()
        manifest = await House(store).image(LAYER)
        store.older(48 * HOUR, layout.blob(DIGEST), layout.blob(Digest.of(b"{}")))
        return cls(store, manifest)

    async def race(
        self, push: Push, pins: type[Pins], first: int, second: int, *, collector_ends_first: bool
    ) -> tuple[str, int]:
        """The collection does `first` steps, then the push `second`, then one of them the rest,
        then the other. Returns what became of the push, and how many steps it took."""
        steps, pushing = Stepped(self.store), Stepped(self.store)
        collector = Collector(steps, min_age=24 * HOUR, session_lifetime=24 * HOUR, times=TIMES)
        collection = asyncio.create_task(collector.collect())
        await steps.run(collection, first)
        pusher: asyncio.Task[str] = asyncio.ensure_future(push(pushing, pins, self.manifest))
        await pushing.run(pusher, second)
        order = [(steps, collection), (pushing, pusher)]
        for store, task in order if collector_ends_first else reversed(order):
            await store.run(task, None)
        await collection
        assert steps.sweeps_end <= LAST_STEP
        return await pusher, pushing.done

    async def is_whole(self) -> bool:
        """Whether the manifest's layer is here, if the manifest is."""
        manifest = layout.manifest_by_digest("a", Digest.of(self.manifest))
        if await self.store.head(manifest) is None:
            return True
        return await self.store.head(layout.blob(DIGEST)) is not None


async def race_all(root: Path, push: Push, pins: type[Pins]) -> tuple[Counter[str], int]:
    """Every race; what became of the pushes, and how often a manifest was left without a layer."""
    outcomes: Counter[str] = Counter()
    broken = count = 0
    pushing = 1
    for collector_ends_first in (True, False):
        for first in range(FIRST_STEP, LAST_STEP + 1):
            second = 0
            while second <= pushing:
                lab = await Lab.make(root / str(count))
                outcome, pushed = await lab.race(
                    push, pins, first, second, collector_ends_first=collector_ends_first
                )
                pushing = max(pushing, min(pushed, MAX_STEPS))
                outcomes[outcome] += 1
                count += 1
                if outcome == "stored":
                    broken += not await lab.is_whole()
                await lab.store.close()
                second += 1
    return outcomes, broken


@pytest.mark.parametrize("push", [push_manifest, push_all])
async def test_no_manifest_loses_its_layer(tmp_path: Path, push: Push) -> None:
    outcomes, broken = await race_all(tmp_path, push, Pins)
    assert broken == 0
    assert outcomes.keys() <= {"stored", "unknown", "later"}
    assert outcomes["stored"] > 50
    if push is push_manifest:
        assert outcomes["unknown"] > 10


async def test_it_would_without_the_agreement(tmp_path: Path) -> None:
    """So the races above do meet the moments that matter."""
    _, broken = await race_all(tmp_path, push_manifest, Unpinned)
    assert broken > 0
