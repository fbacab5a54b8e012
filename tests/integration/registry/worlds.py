"""What explorations of the registry's handlers start from, and what must hold where they end."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from epoch import layout
from epoch.config import MIB, UploadSettings
from epoch.errors import RegistryError
from epoch.garbage.collector import Collector
from epoch.garbage.pins import Pins, Times
from epoch.oci.digest import Digest
from epoch.registry.dashboard import Dashboard, names_in
from epoch.registry.deletions import Deletions, Waits
from epoch.registry.manifests import Manifests
from epoch.store.base import Store, StoreError
from epoch.upload.blobs import BlobUploads
from tests.integration.registry.conftest import House
from tests.tools.interleavings import Exploration, Objects, Outcome, alone, at_once
from tests.tools.memory import Item, MemoryStore
from tests.tools.parties import NOW, Act

REPO = "team/app"
DAY = 24 * 3600.0
TIMES = Times(view=0, announce=0, patience=0.001, poll=0.001)
WAITS = Waits(dead=0.02, longest_poll=0.02)
SUBJECT = Digest.of(b"subject")


class Quiet(Dashboard):
    """`catalog.json` is written in the background: mostly left out, since it makes more orders."""

    def changed(self, repository: str, tag: str, present: bool) -> None:
        pass


def house_over(
    store: Store,
    pins: type[Pins] = Pins,
    deletions: type[Deletions] = Deletions,
    dashboard: type[Dashboard] = Quiet,
) -> House:
    """The handlers of one process."""
    house = House(store)
    house.dashboard = dashboard(store)
    house.manifests = Manifests(
        store,
        house.referrers,
        house.catalog,
        house.dashboard,
        4096,
        pins(store, TIMES),
        deletions=deletions(store, house.catalog, WAITS),
    )
    return house


async def status_of(answer: Awaitable[Any]) -> object:
    """The status that a client sees."""
    try:
        response = await answer
    except RegistryError as error:
        return error.status
    except StoreError as error:
        if error.retry_after is None:
            raise
        return 503
    return getattr(response, "status", 200)


def act(*calls: Callable[[House], Awaitable[Any]], **kinds: Any) -> Act:
    """Requests in a row to a process of their own; returns their statuses."""

    async def run(store: Store) -> object:
        house = house_over(store, **kinds)
        statuses = [await status_of(call(house)) for call in calls]
        await house.dashboard.close()
        return tuple(statuses)

    return run


def push(data: bytes, *tags: str, algorithm: str = "sha256", **kinds: Any) -> Act:
    reference = str(Digest.of(data, algorithm))
    return act(lambda house: house.put(REPO, reference, data, *tags), **kinds)


def delete(reference: object, **kinds: Any) -> Act:
    return act(lambda house: house.delete(REPO, reference), **kinds)


def mount(digest: Digest) -> Act:
    """Mount a blob, where somebody's pulls are limited: a link is written."""

    async def run(store: Store) -> object:
        house = house_over(store)
        settings = UploadSettings(part_size=5 * MIB, budget=8 * MIB, hash_threads=0)
        link = house.membership.add
        uploads = BlobUploads(store, settings, house.membership.has, link, Pins(store, TIMES))
        request = house.request("POST", [("mount", str(digest)), ("from", "other")])
        try:
            status = await status_of(uploads.post(request, REPO))
            assert status in (201, 202, 503), "a mount is never refused"
            return (status,)
        finally:
            await uploads.close()

    return run


def delete_blob(digest: Digest) -> Act:
    """Delete a blob."""

    async def run(store: Store) -> object:
        house = House(store, TIMES)
        answer = house.blobs.delete(house.request("DELETE"), REPO, str(digest))
        return (await status_of(answer),)

    return run


async def collect(store: Store) -> object:
    """A garbage collection."""
    collector = Collector(store, min_age=DAY, session_lifetime=DAY, times=TIMES)
    await collector.collect()
    return (200,)


Also = Callable[[Objects, dict[str, Outcome]], None]


class World:
    """What the parties find, and what must hold when they have ended."""

    def __init__(self, *, complete: bool = True) -> None:
        """`complete`: the catalogue and the index of referrers have been read before, so that they
        are not made from the manifests any more."""
        self.objects: Objects = {}
        self.store = MemoryStore(clock=lambda: NOW)
        self.store.objects = self.objects
        self.known: dict[Digest, bytes] = {}
        if complete:
            self.objects["_catalog/_complete"] = Item(b"", NOW)
            self.objects[f"referrers/{REPO}/_complete"] = Item(b"", NOW)

    def image(self, *layers: bytes, **more: Any) -> bytes:
        """A manifest whose blobs are there."""
        data: bytes = at_once(House(self.store).image(*layers, **more))
        self.known |= {Digest.of(data, algorithm): data for algorithm in ("sha256", "sha512")}
        return data

    def referrer(self, *layers: bytes) -> bytes:
        """The same with a subject."""
        return self.image(*layers, subject=House(self.store).descriptor(b"subject"))

    def do(self, *acts: Act) -> None:
        """Requests that have ended long before."""
        for one in acts:
            alone(self.objects, one)
        self.age()

    def age(self) -> None:
        """Let two days go by."""
        age(self.objects)

    def explore(
        self,
        acts: Mapping[str, Act],
        *,
        may_stop: Sequence[str] = (),
        page: int = 1000,
        also: Also | None = None,
    ) -> Exploration:
        """Every order of the steps of `acts`. Pushes have names that begin with "push"."""
        exploration = Exploration(self.objects, acts, may_stop=may_stop, page=page)
        exploration.run(lambda objects, outcomes: self.check_end(objects, outcomes, also))
        return exploration

    def check_end(
        self, objects: Objects, outcomes: dict[str, Outcome], also: Also | None = None
    ) -> None:
        """What must hold when all calls have returned, and after one more collection."""
        for one in outcomes.values():
            assert one.stopped or is_good(one.returned), f"unexpected: {outcomes}"
        killed = [name for name, one in outcomes.items() if one.stopped and name.startswith("push")]
        if not killed:
            alone(dict(objects), self.check)
            if also is not None:
                also(objects, outcomes)
        age(objects)
        alone(objects, collect)
        alone(dict(objects), self.check_but_tags if killed else self.check)
        self.check_nothing_left(objects)

    async def check(self, store: Store) -> None:
        """The indexes have what is there, as any client sees it."""
        await self.check_but_tags(store)
        house = house_over(store)
        for tag in [info.key async for info in store.list_folder(layout.manifests(REPO))]:
            name = tag.rpartition("/")[2].removesuffix(".json")
            response = await house.get(REPO, name)
            digest = Digest.parse(house.header(response, "Docker-Content-Digest") or "")
            assert await is_there(house, digest), f"{name} stands for {digest}, which is not there"

    async def check_but_tags(self, store: Store) -> None:
        """The same but for tags, which a push that was killed beside a deletion of its manifest may
        leave without a copy by digest."""
        house = house_over(store)
        readable = [digest for digest in self.known if await is_there(house, digest)]
        for digest in readable:
            for blob in blobs_of(self.known[digest]):
                assert await store.head(layout.blob(blob)) is not None, f"{digest} lost a blob"
        names, _ = await house.list_catalog()
        assert not readable or names == [REPO], "lost from the catalogue"
        listed, _ = await house.list_referrers(REPO, SUBJECT)
        assert sorted(entry["digest"] for entry in listed) == sorted(
            str(digest) for digest in readable if b'"subject"' in self.known[digest]
        ), "the list of referrers is wrong"

    def check_nothing_left(self, objects: Objects) -> None:
        """After a collection nothing is listed that is not there; and in `catalog.json` all that
        is."""
        text = objects.get("catalog.json", Item(b"{}", NOW)).data
        tags = re.findall(rf"manifests/{REPO}/(\w+)\.json", " ".join(objects))
        assert names_in(text) == {(REPO, tag) for tag in tags}, "catalog.json is wrong"
        for key in objects:
            folder, _, rest = key.partition("/")
            assert folder != "_deletions", f"left behind: {key}"
            if folder == "_catalog" and rest != "_complete":
                prefix = f"manifests/{rest.removesuffix('/_')}/"
                assert any(one.startswith(prefix) for one in objects), f"left behind: {key}"
            if folder == "referrers" and not rest.endswith("/_complete"):
                name = rest.rpartition("/")[2]
                assert f"manifests/{REPO}/_digests/{name}" in objects, f"left behind: {key}"
            if folder == "_links":
                blob = rest.rpartition("/")[2].replace("-", "/")
                assert f"blobs/{blob}" in objects, f"left behind: {key}"


def is_good(returned: object) -> bool:
    """Whether the statuses of a party are such as a client may see."""
    assert isinstance(returned, tuple)
    return set(returned) <= {200, 201, 202, 404, 503}


def age(objects: Objects) -> None:
    """Let two days go by."""
    for key, item in objects.items():
        objects[key] = Item(item.data, item.modified - 2 * DAY)


async def is_there(house: House, digest: Digest) -> bool:
    """Whether a manifest can be pulled by its digest."""
    try:
        return (await house.get(REPO, digest)).status == 200
    except RegistryError as error:
        if error.status != 404:
            raise
        return False


def blobs_of(data: bytes) -> list[Digest]:
    """The blobs that a manifest names."""
    value = json.loads(data)
    return [Digest.parse(entry["digest"]) for entry in [value["config"], *value["layers"]]]
