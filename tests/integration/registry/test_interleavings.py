"""Requests beside one another, in every order of their calls of the store: no index of manifests
ever misses what is there, and none lists for ever what is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epoch import layout
from epoch.garbage.pins import Pins
from epoch.oci.digest import Digest
from epoch.registry.dashboard import Dashboard
from epoch.registry.deletions import Deletions, Watch
from epoch.store.base import ObjectInfo
from tests.integration.registry.worlds import (
    REPO,
    SUBJECT,
    World,
    act,
    collect,
    delete,
    delete_blob,
    mount,
    push,
)
from tests.tools.interleavings import Broken, Exploration, Objects, Outcome
from tests.tools.parties import Act


def pushes(data: bytes, count: int, *tags: str) -> dict[str, Act]:
    return {f"push {number}": push(data, *tags) for number in range(count)}


def deletions(reference: object, count: int) -> dict[str, Act]:
    return {f"delete {number}": delete(reference) for number in range(count)}


def all_or_nothing(data: bytes, *tags: str) -> Callable[[Objects, dict[str, Outcome]], None]:
    """A manifest that was pushed with tags has them all, or is gone with them."""

    def check(objects: Objects, _: dict[str, Outcome]) -> None:
        wanted = [layout.manifest_by_digest(REPO, Digest.of(data))]
        wanted += [layout.manifest_by_tag(REPO, tag) for tag in tags]
        found = [key in objects for key in wanted]
        assert all(found) or not any(found), f"half done: {dict(zip(wanted, found, strict=True))}"

    return check


@pytest.mark.parametrize(
    ("kind", "pushed", "deleted", "tags"),
    [
        ("image", 1, 1, ("new",)),
        ("image", 2, 1, ("new",)),
        ("image", 1, 2, ("new",)),
        ("image", 2, 2, ()),
        ("referrer", 1, 1, ("new",)),
        ("referrer", 2, 1, ("new",)),
        ("referrer", 1, 2, ("new",)),
        # 1.7 million states, 700 MB.
        pytest.param("referrer", 2, 2, (), marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_pushes_and_deletions_of_one_manifest(
    kind: str, pushed: int, deleted: int, tags: tuple[str, ...]
) -> None:
    world = World()
    data = world.image(b"layer") if kind == "image" else world.referrer(b"layer")
    world.do(push(data, *(["old"] if tags else [])))
    acts = pushes(data, pushed, *tags) | deletions(Digest.of(data), deleted)
    found = world.explore(acts, also=all_or_nothing(data, *tags))
    assert found.ends >= 2


@pytest.mark.parametrize("old", [True, False])
def test_a_list_is_not_read_in_one_moment(old: bool) -> None:
    world = World()
    data, other = world.image(b"layer"), world.image(b"other")
    if old:
        world.do(push(data, "a", "b"), push(other, "c"))
    acts = pushes(data, 1, "new") | deletions(Digest.of(data), 1)
    world.explore(acts, page=1, also=all_or_nothing(data, "new"))


def test_push_and_deletion_of_two_manifests() -> None:
    world = World()
    one, two = world.image(b"1"), world.referrer(b"2")
    world.do(push(one, "one"))
    acts = pushes(two, 1, "two") | deletions(Digest.of(one), 1)
    acts |= {"delete two": delete(Digest.of(two))}
    world.explore(acts)


def test_a_tag_that_moves_is_not_lost_with_what_it_stood_for() -> None:
    world = World()
    old, new = world.image(b"1"), world.image(b"2")
    world.do(push(old, "latest"))

    def moved(objects: Objects, _: dict[str, Outcome]) -> None:
        item = objects.get(layout.manifest_by_tag(REPO, "latest"))
        assert item is not None, "nobody has deleted it"
        assert item.data == new

    world.explore(pushes(new, 1, "latest") | deletions(Digest.of(old), 2), also=moved)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_tag_is_pushed_beside_its_deletion(algorithm: str) -> None:
    world = World()
    data = world.image(b"layer")
    world.do(push(data, "tag"))
    acts = {"push": push(data, "tag", algorithm=algorithm), "delete tag": delete("tag")}
    acts |= deletions(Digest.of(data, algorithm), 1)
    world.explore(acts)


def test_one_tag_by_two_algorithms() -> None:
    world = World()
    data = world.image(b"layer")
    world.do(push(data, "tag", algorithm="sha512"))
    acts = {"push 512": push(data, "tag", algorithm="sha512"), "push 256": push(data, "tag")}
    acts |= {"delete tag": delete("tag"), "delete 512": delete(Digest.of(data, "sha512"))}
    world.explore(acts)


def test_a_process_that_has_pushed_before() -> None:
    """It remembers the repository's marker."""
    world = World()
    one, two = world.image(b"1"), world.image(b"2")

    def both() -> Act:
        by_digest = [(str(Digest.of(data)), data) for data in (one, two)]
        return act(
            lambda house: house.put(REPO, *by_digest[0]),
            lambda house: house.put(REPO, *by_digest[1], "tag"),
        )

    acts = {"push": both(), "delete": delete(Digest.of(one)), "too": delete(Digest.of(two))}
    world.explore(acts)


@pytest.mark.parametrize("existing", [True, False])
def test_the_catalogue_is_made_while_it_changes(existing: bool) -> None:
    world = World(complete=False)
    data = world.image(b"layer")
    if existing:
        world.do(push(data, "tag"))
    acts = {"read": act(lambda house: house.catalog.get(house.request()))}
    world.explore(acts | pushes(data, 1) | deletions(Digest.of(data), 1))


@pytest.mark.parametrize("beside", ["push", "delete", "collect"])
def test_catalog_json_is_written_while_it_changes(beside: str) -> None:
    """By several that take from one another; the next collection mends that."""
    world = World()
    data, other = world.image(b"layer"), world.image(b"other")
    world.do(push(data, "old", dashboard=Dashboard))
    acts = {"push": push(data, "new", dashboard=Dashboard)}
    acts["beside"] = {
        "push": push(other, "other", dashboard=Dashboard),
        "delete": delete("old", dashboard=Dashboard),
        "collect": collect,
    }[beside]
    world.explore(acts, may_stop=["push"])


@pytest.mark.parametrize("existing", [True, False])
def test_the_index_of_referrers_is_made_while_it_changes(existing: bool) -> None:
    world = World(complete=False)
    data = world.referrer(b"layer")
    if existing:
        world.do(push(data))
    acts = {
        "read": act(lambda house: house.referrers.get(house.request(), REPO, str(SUBJECT))),
    }
    world.explore(acts | pushes(data, 1) | deletions(Digest.of(data), 1))


@pytest.mark.parametrize("may_stop", ["push 0", "delete 0"])
@pytest.mark.parametrize("kind", ["image", "referrer"])
@pytest.mark.parametrize(("pushed", "deleted"), [(1, 1), (2, 1), (1, 2)])
def test_one_of_them_is_killed_after_any_step(
    kind: str, may_stop: str, pushed: int, deleted: int
) -> None:
    """A deletion that was killed leaves nothing to be mended but what the next collection finds
    listed and gone. What a push that was killed leaves, it mends."""
    world = World()
    data = world.image(b"layer") if kind == "image" else world.referrer(b"layer")
    world.do(push(data, "old"))
    tags = ("new",) if pushed + deleted == 2 else ()
    acts = pushes(data, pushed, *tags) | deletions(Digest.of(data), deleted)
    world.explore(acts, may_stop=[may_stop])


class Unannounced(Deletions):
    """What it would be without the agreement."""

    async def watch(self, repository: str) -> Watch:
        marker = await self._catalog.mark(repository)

        class Blind(Watch):
            async def met_nothing(self) -> bool:
                return True

        return Blind(self, repository, marker)

    @asynccontextmanager
    async def announced(self, repository: str) -> AsyncIterator[None]:
        yield
        await self._catalog.renew(repository)


def test_without_the_agreement_it_would_be_found() -> None:
    """So the explorations above do meet the moments that matter."""
    world = World()
    data = world.referrer(b"layer")
    world.do(push(data))
    kinds: dict[str, Any] = {"deletions": Unannounced}
    acts = {"push": push(data, **kinds), "delete": delete(Digest.of(data), **kinds)}
    with pytest.raises(Broken, match=r"lost from the catalogue|list of referrers"):
        world.explore(acts)


class TestCollection:
    """Beside a garbage collection."""

    def test_a_push_beside_a_collection(self) -> None:
        world = World()
        data = world.image(b"an old layer")
        world.age()
        found = world.explore(pushes(data, 1, "tag") | {"collect": collect})
        assert found.ends >= 2

    def test_without_pins_a_layer_would_be_lost(self) -> None:
        class Unpinned(Pins):
            async def rely(self, digest: Digest) -> ObjectInfo | None:
                return await self._store.head(layout.blob(digest))

        world = World()
        data = world.image(b"an old layer")
        world.age()
        with pytest.raises(Broken, match="lost a blob"):
            world.explore({"push": push(data, pins=Unpinned), "collect": collect})

    def test_what_a_killed_push_left_is_collected_beside_the_next_one(self) -> None:
        """The entry of a referrer, and a marker, that stand for nothing."""
        world = World()
        data = world.referrer(b"layer")
        world.do(push(data))
        del world.objects[layout.manifest_by_digest(REPO, Digest.of(data))]
        # The blobs are young: this is about the indexes.
        at = Digest.of(b"layer"), Digest.of(b"{}")
        for digest in at:
            item = world.objects[layout.blob(digest)]
            world.objects[layout.blob(digest)] = item._replace(modified=item.modified + 2 * 86400)
        acts = pushes(data, 1) | {"collect": collect}
        world.explore(acts)
        world.explore(acts, may_stop=["collect"])

    def test_a_blob_is_mounted_beside_a_collection(self) -> None:
        world = World()
        digest = Digest.of(b"an old layer")
        world.image(b"an old layer")
        world.age()

        def linked(objects: Objects, outcomes: dict[str, Outcome]) -> None:
            if outcomes["mount"].returned == (201,):
                assert layout.blob(digest) in objects, "mounted, and gone"
                assert layout.link(REPO, digest) in objects, "mounted, and not linked"

        world.explore({"mount": mount(digest), "collect": collect}, also=linked)


@pytest.mark.parametrize("may_stop", ["", "mount", "delete"])
def test_a_blob_is_mounted_beside_its_deletion(may_stop: str) -> None:
    world = World()
    digest = Digest.of(b"a layer")
    world.image(b"a layer")

    def linked(objects: Objects, outcomes: dict[str, Outcome]) -> None:
        if outcomes["mount"].returned == (201,) and layout.blob(digest) in objects:
            assert layout.link(REPO, digest) in objects, "mounted, and not linked"

    acts = {"mount": mount(digest), "delete": delete_blob(digest)}
    found = world.explore(acts, may_stop=[may_stop] if may_stop else [], also=linked)
    assert found.ends >= 2


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(st.data())
def test_more_of_them_in_orders_picked_by_chance(data: st.DataObject) -> None:
    world = World(complete=data.draw(st.booleans()))
    manifests = [world.image(b"1"), world.image(b"2"), world.referrer(b"3")]
    world.do(push(manifests[0], "a"), push(manifests[2], "b"))
    tags = st.lists(st.sampled_from("abc"), max_size=2, unique=True)
    acts: dict[str, Act] = {}
    for number in range(data.draw(st.integers(2, 6))):
        manifest = data.draw(st.sampled_from(manifests))
        algorithm = data.draw(st.sampled_from(["sha256", "sha256", "sha512"]))
        kind = data.draw(st.sampled_from(["push", "push", "delete", "delete", "untag", "collect"]))
        acts[f"{kind} {number}"] = {
            "push": push(manifest, *data.draw(tags), algorithm=algorithm),
            "delete": delete(Digest.of(manifest, algorithm)),
            "untag": delete(data.draw(st.sampled_from("abc"))),
            "collect": collect,
        }[kind]
    may_stop = [name for name in acts if data.draw(st.integers(0, 4)) == 0]
    exploration = Exploration(world.objects, acts, may_stop=may_stop, page=2)
    try:
        pick = data.draw(st.randoms(use_true_random=False))
        exploration.wander(pick.randrange, world.check_end)
    finally:
        exploration.close()
