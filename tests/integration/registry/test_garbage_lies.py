"""A store that answers 200 and lies, at each read of a collection in turn: it costs no blob that a
manifest names, no session, and no manifest."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from epoch import layout
from epoch.errors import Code, RegistryError
from epoch.garbage.collector import Collector
from epoch.garbage.pins import Pins, Times
from epoch.garbage.report import Report
from epoch.oci.digest import Digest
from epoch.store.base import Store, StoreError
from tests.integration.registry.conftest import House
from tests.tools.aged import Aged
from tests.tools.lying import CONTENT_LIES, HTML, LIST_LIES, MISSING, Lie, Lying

DAY = 24 * 3600.0
QUICK = Times(view=0, announce=0, patience=0.01, poll=0.001)
DEEP, SPARE = "team/deep", "team/spare"
SESSION = "a" * 32


class Scene:
    """A store with an index whose child was pushed by digest only, a tag that has lost its copy, a
    pinned blob and a session that is alive; and with garbage."""

    def __init__(self, store: Store) -> None:
        self.aged = Aged(store)
        self.lying = Lying(self.aged)
        self.house = House(self.aged)
        self.rounds = 0
        self.pinned = Digest.of(b"pinned")
        self.other = b""

    async def build(self) -> None:
        house = self.house
        child = await house.image(b"child")
        # Of the same length as the child: one lie is to give the bytes of the other.
        self.other = await house.image(b"other")
        await house.push(DEEP, child)
        await house.push(DEEP, house.index(child), "multi")
        await house.push(SPARE, self.other, "other")
        signature = await house.image(b"sig", subject=house.descriptor(self.other))
        await house.push(SPARE, signature)
        await house.list_referrers(SPARE, Digest.of(self.other))
        await house.list_catalog()
        await self.aged.put(layout.manifest_by_tag(SPARE, "lost"), await house.image(b"lost-"))
        await self.aged.put(f"_uploads/{SESSION}/state/00000001", b"{}")
        await self.make_old()
        await self.aged.put(f"_uploads/{SESSION}/state/00000002", b"{}")
        await house.push_blob(b"pinned")
        self.aged.older(2 * DAY, layout.blob(self.pinned))
        assert await Pins(self.aged, QUICK).rely(self.pinned) is not None
        await house.dashboard.close()
        self.kept = sorted(await self.needed())

    async def make_old(self) -> None:
        self.aged.older(2 * DAY, *[info.key async for info in self.aged.inner.list("")])

    async def needed(self) -> list[str]:
        """All keys but those of garbage and of notes."""
        found = [info.key async for info in self.aged.inner.list("")]
        notes = ("_gc/", layout.blob(Digest.of(b"garbage")))
        return [key for key in found if not key.startswith(notes) and key != layout.LAST_COLLECTION]

    async def collect(self) -> Report | StoreError:
        """Collect over the store that lies, with garbage to be removed."""
        garbage = await self.house.push_blob(b"garbage")
        self.aged.older(2 * DAY, layout.blob(garbage))
        collector = Collector(self.lying.as_store, min_age=DAY, session_lifetime=DAY, times=QUICK)
        try:
            return await collector.collect()
        except StoreError as error:
            return error

    async def at_each_read(self, lie: Lie) -> tuple[int, list[StoreError]]:
        """How many reads there were to lie at, and by how many the collection was stopped."""
        stopped: list[StoreError] = []
        for nth in range(1, 200):
            self.lying.lie(lie, nth)
            outcome = await self.collect()
            assert sorted(await self.needed()) == self.kept, f"{lie} at {self.lying.lied}"
            if isinstance(outcome, StoreError):
                assert "\n" not in str(outcome)
                stopped.append(outcome)
            if not self.lying.lied:
                assert isinstance(outcome, Report)
                assert outcome.removed_blobs == 1
                return nth - 1, stopped
        raise AssertionError("it never came to its end")


@pytest.fixture
async def scene(store: Store) -> Scene:
    scene = Scene(store)
    await scene.build()
    return scene


async def test_no_single_wrong_answer_costs_anything(scene: Scene) -> None:
    """Of any object's bytes, of any HEAD, of any list."""
    lies = [*CONTENT_LIES, Lie("another", content=lambda _: scene.other), MISSING, *LIST_LIES]
    for lie in lies:
        reads, _ = await scene.at_each_read(lie)
        assert reads >= (7 if lie.items is None else 5), lie


@pytest.mark.parametrize("lie", CONTENT_LIES, ids=str)
@pytest.mark.parametrize("what", ["child", "tag", "copy"])
async def test_bytes_that_are_always_wrong_stop_it(scene: Scene, lie: Lie, what: str) -> None:
    """And the object is named."""
    key = {
        "child": layout.manifest_by_digest(DEEP, Digest.of(await scene.house.image(b"child"))),
        "copy": layout.manifest_by_digest(SPARE, Digest.of(scene.other)),
        "tag": layout.manifest_by_tag(SPARE, "lost"),
    }[what]
    scene.lying.lie(replace(lie, keys=key), 1, for_good=True)
    outcome = await scene.collect()
    if what == "tag" and lie.name == "flipped" and await _has_no_md5(scene, key):
        # Twice the same, and a manifest: nothing in the store contradicts it. Its copy by digest
        # would, and would keep what it names; this tag has lost its copy.
        assert isinstance(outcome, Report)
        return
    assert isinstance(outcome, StoreError)
    assert key in str(outcome)
    assert sorted(await scene.needed()) == scene.kept
    assert await scene.aged.head(layout.blob(Digest.of(b"garbage"))) is not None


async def _has_no_md5(scene: Scene, key: str) -> bool:
    info = await scene.aged.head(key)
    return info is not None and re.fullmatch('"?[0-9a-f]{32}"?', info.etag) is None


async def test_what_rots_in_the_store_stops_it(scene: Scene) -> None:
    """Not only an answer is wrong: the bytes are, with a size and an etag that fit them."""
    key = layout.manifest_by_digest(DEEP, Digest.of(await scene.house.image(b"child")))
    data = await scene.aged.get(key, 10_000)
    assert data is not None
    for wrong in (data.replace(b'"layers"', b'"lawers"'), HTML, b""):
        await scene.aged.inner.put(key, wrong)
        outcome = await scene.collect()
        assert isinstance(outcome, StoreError)
        assert f"read {key}: its bytes are " in str(outcome)
        assert sorted(await scene.needed()) == scene.kept
    await scene.aged.inner.put(key, data)
    assert isinstance(await scene.collect(), Report)


Cut = Callable[[Scene], Awaitable[Lie]]


def _without(part: str) -> Lie:
    return Lie(
        f"without {part}",
        items=lambda items: [item for item in items if part not in item.key],
        keys="manifests/",
    )


@pytest.mark.parametrize("part", ["manifests/", f"{DEEP}/", f"{SPARE}/", f"{SPARE}/_digests/"])
async def test_lists_of_manifests_that_are_always_cut_stop_it(scene: Scene, part: str) -> None:
    """What else is in the store speaks for what they do not have."""
    # The lists of single repositories are true, or are not asked for.
    lie = replace(_without(part), keys="manifests/")
    scene.lying.lie(lie, 1, for_good=True)
    real = scene.lying._listed
    scene.lying._listed = (  # type: ignore[method-assign]
        lambda prefix, found: real(prefix, found) if prefix == "manifests/" else found
    )
    outcome = await scene.collect()
    assert isinstance(outcome, StoreError), part
    assert "list manifests/: manifests/team/" in str(outcome)
    assert sorted(await scene.needed()) == scene.kept


async def test_a_child_that_its_index_speaks_for(scene: Scene) -> None:
    child = Digest.of(await scene.house.image(b"child"))
    scene.lying.lie(_without(child.hex), 1, for_good=True)
    outcome = await scene.collect()
    assert isinstance(outcome, StoreError)
    assert layout.manifest_by_digest(DEEP, child) in str(outcome)


async def test_manifests_that_are_deleted_meanwhile_are_no_lie(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = layout.manifest_by_digest(DEEP, Digest.of(await scene.house.image(b"child")))
    lists = 0
    real = scene.aged.list

    async def list_and_delete(prefix: str, after: str = "") -> object:
        nonlocal lists
        lists += prefix == "manifests/"
        if lists == 2:
            await scene.aged.delete(key)
        async for info in real(prefix, after):
            yield info

    monkeypatch.setattr(scene.aged, "list", list_and_delete)
    outcome = await scene.collect()
    assert isinstance(outcome, Report)
    assert await scene.aged.head(layout.blob(Digest.of(b"child"))) is not None


async def test_a_tag_that_moves_while_it_is_read(scene: Scene) -> None:
    """Not an error: it is looked at again, and what it names now is kept."""
    key = layout.manifest_by_tag(SPARE, "other")
    moved = await scene.house.image(b"a longer layer than before", b"and one more")
    real = scene.aged.fetch

    async def fetch(asked: str, limit: int) -> object:
        if asked == key:
            await scene.aged.inner.put(key, moved)
        return await real(asked, limit)

    scene.aged.fetch = fetch  # type: ignore[method-assign, assignment]
    scene.aged.older(2 * DAY, layout.blob(Digest.of(b"and one more")))
    outcome = await scene.collect()
    assert isinstance(outcome, Report)
    assert outcome.removed_blobs == 1
    assert await scene.aged.head(layout.blob(Digest.of(b"and one more"))) is not None


async def test_a_session_whose_newest_object_is_not_listed_stays(scene: Scene) -> None:
    upload = await scene.aged.create_multipart(f"_uploads/{SESSION}/data")
    scene.aged.multipart_age = 2 * DAY
    for lie in (
        Lie("cut", items=lambda items: [one for one in items if "00000002" not in str(one)]),
        Lie("none", items=lambda items: [one for one in items if SESSION not in str(one)]),
    ):
        for nth in range(1, 3):
            scene.lying.lie(replace(lie, keys="_uploads/"), nth)
            await scene.collect()
            assert scene.lying.lied.startswith("_uploads/")
            assert sorted(await scene.needed()) == scene.kept
            assert [one async for one, _ in scene.aged.list_multiparts("_uploads/")] == [upload]
    await scene.aged.abort_multipart(upload)


async def test_a_deletion_by_request_believes_as_little(scene: Scene) -> None:
    """DELETE of a blob that a manifest names is refused, whatever one read says."""
    named = str(Digest.of(b"child"))
    blobs = House(scene.lying.as_store, QUICK).blobs
    for lie in (*CONTENT_LIES, MISSING, *LIST_LIES):
        for nth in range(1, 100):
            scene.lying.lie(lie, nth)
            with pytest.raises((RegistryError, StoreError)) as caught:
                await blobs.delete(scene.house.request("DELETE"), DEEP, named)
            if isinstance(caught.value, RegistryError):
                assert caught.value.code in (Code.UNSUPPORTED, Code.BLOB_UNKNOWN)
            assert await scene.aged.head(layout.blob(Digest.of(b"child"))) is not None
            if not scene.lying.lied:
                break
        assert nth > 1
