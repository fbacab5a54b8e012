"""Pushes, pulls and deletions, of manifests and of blobs, beside a collection that never stops:
nothing that was acknowledged loses a blob, and garbage does go."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path

import pytest

from epoch.app import App
from epoch.config import S3Settings, Settings, UploadSettings
from epoch.garbage.collector import Collector
from epoch.garbage.pins import Times
from epoch.oci import media_types
from epoch.process.serving import make_service
from epoch.store.base import Store
from tests.tools.client import Client, digest_of
from tests.tools.fixtures import open_place
from tests.tools.running import PART

SECONDS = 20.0
ENOUGH = 10  # blobs collected
TIMES = Times(young=1.0, view=0.1, announce=0.2, poll=0.02, valid=60)
MIN_AGE = 5.0
"""`TIMES.young`, a second that S3 rounds off, and three for the slowest request."""


class Crowd:
    """Clients that share few blobs, so that old garbage is wanted again all the time."""

    def __init__(self, port: int, store: Store) -> None:
        self.port = port
        self.store = store
        self.blobs = [random.Random(n).randbytes(1000 + n) for n in range(20)]
        self.pushed: dict[str, list[str]] = {}
        """Manifests that were acknowledged, and their blobs."""
        self.until = time.monotonic() + SECONDS
        self.pushes = self.retries = self.pulls = self.deletions = self.removed = 0
        self.erased = self.refused = 0
        self.erasing: dict[str, float] = {}
        """Blobs that were deleted by request, and when that was last under way."""

    def over(self) -> bool:
        # A slow machine gets the time to collect what the test is about.
        late = time.monotonic() - self.until
        return late > 0 and (self.removed > ENOUGH or late > 2 * SECONDS)

    async def push(self, seed: int) -> None:
        rng = random.Random(seed)
        async with Client(self.port) as client:
            while not self.over():
                await self._push(client, rng)
                await asyncio.sleep(rng.random() * 0.3)

    async def _push(self, client: Client, rng: random.Random) -> None:
        # Each second has its favourites, which come back just when they are old enough to go.
        first = int(time.monotonic()) * 2 % len(self.blobs)
        chosen = [self.blobs[(first + rng.randrange(4)) % len(self.blobs)] for _ in range(3)]
        began = time.monotonic()
        for blob in chosen:
            target = f"/v2/a/blobs/{digest_of(blob)}"
            way = rng.randrange(3)
            if way == 0:
                found = await client.request("HEAD", target)
                if found.status == 200:
                    continue
            elif way == 1:
                mount = f"/v2/a/blobs/uploads/?mount={digest_of(blob)}&from=b"
                if (await client.request("POST", mount, b"")).status == 201:
                    continue
            answer = await client.request("PUT", target, blob)
            if answer.status == 503:
                self.retries += 1
                return
            assert answer.status == 201, answer
        descriptors = [
            {"mediaType": "application/x", "digest": digest_of(blob), "size": len(blob)}
            for blob in chosen
        ]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "config": descriptors[0],
                "layers": descriptors[1:],
                "annotations": {"number": str(rng.random())},
            }
        ).encode()
        answer = await client.request("PUT", f"/v2/a/manifests/{digest_of(manifest)}", manifest)
        if answer.status == 503:
            self.retries += 1
            return
        # The client was told a moment ago that each blob is here; only a request may delete it.
        if answer.status == 404:
            self.refused += 1
            for one in json.loads(answer.body)["errors"][0]["detail"]:
                assert self.erasing[one["digest"]] > began
            return
        assert answer.status == 201, answer
        self.pushed[digest_of(manifest)] = [digest_of(blob) for blob in chosen]
        self.pushes += 1

    async def pull(self) -> None:
        rng = random.Random(7)
        async with Client(self.port) as client:
            while not self.over():
                await asyncio.sleep(0.01)
                if not self.pushed:
                    continue
                digest = rng.choice(list(self.pushed))
                blobs = self.pushed[digest]
                manifest = await client.request("GET", f"/v2/a/manifests/{digest}")
                found = [await client.request("GET", f"/v2/a/blobs/{blob}") for blob in blobs]
                if digest in self.pushed:
                    assert [one.status for one in (manifest, *found)] == [200] * 4
                    self.pulls += 1

    async def delete(self) -> None:
        rng = random.Random(8)
        async with Client(self.port) as client:
            while not self.over():
                await asyncio.sleep(0.05)
                while len(self.pushed) > 6:
                    digest = rng.choice(list(self.pushed))
                    del self.pushed[digest]
                    answer = await client.request("DELETE", f"/v2/a/manifests/{digest}")
                    assert answer.status == 202, answer
                    self.deletions += 1

    async def erase(self) -> None:
        rng = random.Random(9)
        async with Client(self.port) as client:
            while not self.over():
                await asyncio.sleep(0.6)  # the collection is to find something too
                digest = digest_of(rng.choice(self.blobs))
                self.erasing[digest] = float("inf")
                answer = await client.request("DELETE", f"/v2/b/blobs/{digest}")
                assert answer.status in (202, 404, 405), answer
                if answer.status == 202:
                    self.erased += 1
                self.erasing[digest] = time.monotonic()

    async def collect(self) -> None:
        while not self.over():
            collector = Collector(
                self.store, min_age=MIN_AGE, session_lifetime=MIN_AGE, times=TIMES
            )
            self.removed += (await collector.collect()).removed_blobs

    async def check(self) -> None:
        """All that was acknowledged and not deleted is whole."""
        async with Client(self.port) as client:
            for digest, blobs in self.pushed.items():
                found = await client.request("GET", f"/v2/a/manifests/{digest}")
                assert found.status == 200
                for blob in blobs:
                    answer = await client.request("GET", f"/v2/a/blobs/{blob}")
                    assert answer.status == 200, (digest, blob)
                    assert digest_of(answer.body) == blob


async def test_collection_without_end(place: S3Settings | Path) -> None:
    store = open_place(place)
    await store.check()
    settings = Settings(upload=UploadSettings(part_size=PART))
    app = App(settings, store, TIMES)
    service = make_service(settings, app)
    _, port = await service.listen("127.0.0.1", 0)
    crowd = Crowd(port, store)
    try:
        async with asyncio.TaskGroup() as group:
            for seed in range(4):
                group.create_task(crowd.push(seed))
            group.create_task(crowd.pull())
            group.create_task(crowd.delete())
            group.create_task(crowd.erase())
            for _ in range(2):  # two at once must do no harm
                group.create_task(crowd.collect())
        await crowd.check()
    finally:
        await service.close(0)
        await app.close()
    print(vars(crowd) | {"blobs": "", "pushed": len(crowd.pushed)})
    assert min(crowd.pushes, crowd.pulls, crowd.deletions) > 50
    assert crowd.erased > 2
    assert crowd.removed > ENOUGH
    # Pushes of a blob that is just being deleted wait, and are then sent again.
    assert crowd.retries <= crowd.pushes / 10
    assert crowd.refused <= crowd.pushes / 10


pytestmark = pytest.mark.timeout(180)
