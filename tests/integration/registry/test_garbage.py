"""What garbage collection removes, and what it leaves, over both stores."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from epoch import layout
from epoch.garbage.collector import Collector
from epoch.garbage.pins import TIMES, Pins, Times
from epoch.garbage.references import digests_in
from epoch.garbage.report import Report
from epoch.garbage.sweep import BATCH
from epoch.oci import media_types
from epoch.oci.digest import Digest
from epoch.store.base import Store, StoreError
from tests.integration.registry.conftest import House
from tests.tools.aged import Aged

DAY = 24 * 3600.0
QUICK = Times(view=0, announce=0)
REPO = "team/app"


@pytest.fixture
def aged(store: Store) -> Aged:
    return Aged(store)


@pytest.fixture
def old_house(aged: Aged) -> House:
    return House(aged)


async def collect(store: Aged, *, dry_run: bool = False, times: Times = QUICK) -> Report:
    collector = Collector(store, min_age=DAY, session_lifetime=DAY, times=times)
    return await collector.collect(dry_run=dry_run)


async def age_all(store: Aged, seconds: float = 2 * DAY) -> None:
    store.older(seconds, *[info.key async for info in store.inner.list("")])


async def all_keys(store: Store, prefix: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix)]


async def test_an_empty_store(aged: Aged) -> None:
    report = await collect(aged)
    assert report == Report()
    assert await all_keys(aged) == [layout.LAST_COLLECTION]


async def test_old_blobs_that_nothing_names_go(aged: Aged, old_house: House) -> None:
    kept = await old_house.image(b"kept")
    await old_house.push(REPO, kept, "v1")
    gone = [await old_house.push_blob(b"gone %d" % number) for number in range(3)]
    gone.append(await old_house.push_blob(b"gone too", "sha512"))
    await age_all(aged)
    young = await old_house.push_blob(b"young")
    before = await all_keys(aged)
    dry = await collect(aged, dry_run=True)
    assert await all_keys(aged) == before
    report = await collect(aged)
    assert (report.removed_blobs, report.removed_bytes) == (4, 6 * 3 + 8)
    assert (dry.removed_blobs, dry.removed_bytes, dry.blobs) == (4, 6 * 3 + 8, 7)
    for digest in gone:
        assert await aged.head(layout.blob(digest)) is None
    assert await aged.head(layout.blob(young)) is not None
    assert sorted(await all_keys(aged)) == sorted(
        {*before, layout.LAST_COLLECTION, "catalog.json"} - {layout.blob(digest) for digest in gone}
    )
    assert old_house.body(await old_house.get(REPO, "v1")) == kept


async def test_everything_that_a_manifest_names_stays(aged: Aged, old_house: House) -> None:
    """Image, index, artifact, sha512, tag alone, digest copy alone, nested repositories."""
    one = await old_house.image(b"one")
    await old_house.push(REPO, one)
    await old_house.push(REPO, old_house.index(one), "multi")
    long = await old_house.image(b"long", algorithm="sha512")
    await old_house.put("nested/of/many", f"sha512:{Digest.of(long, 'sha512').hex}", long)
    for key in ("manifests/r/only-tag.json", "manifests/r/_digests/sha256-odd.json"):
        await aged.put(key, await old_house.image(key.encode()))
    blobs = await all_keys(aged, "blobs/")
    await age_all(aged)
    report = await collect(aged)
    assert (report.removed_blobs, report.spared) == (0, 0)
    assert await all_keys(aged, "blobs/") == blobs


async def test_a_tag_that_differs_from_all_digest_copies_counts(
    aged: Aged, old_house: House
) -> None:
    data = await old_house.image(b"of another writer")
    await aged.put(layout.manifest_by_tag(REPO, "v1"), data)
    await age_all(aged)
    assert (await collect(aged)).removed_blobs == 0


async def test_the_last_manifest_takes_its_blobs_along(aged: Aged, old_house: House) -> None:
    shared = await old_house.image(b"base", b"one")
    other = await old_house.image(b"base", b"two")
    await old_house.push(REPO, shared, "v1")
    await old_house.push("other", other, "v1")
    await old_house.delete(REPO, Digest.of(shared))
    await age_all(aged)
    assert (await collect(aged)).removed_blobs == 1
    assert await aged.head(layout.blob(Digest.of(b"base"))) is not None
    await old_house.delete("other", Digest.of(other))
    assert (await collect(aged)).removed_blobs == 3
    assert await all_keys(aged, "blobs/") == []


async def test_manifests_without_tags_stay(aged: Aged, old_house: House) -> None:
    data = await old_house.image(b"x")
    digest = await old_house.push(REPO, data, "v1")
    await old_house.delete(REPO, "v1")
    await age_all(aged)
    await collect(aged)
    assert old_house.body(await old_house.get(REPO, digest)) == data


@pytest.mark.foreign_keys
async def test_what_is_no_blob_of_ours_stays(aged: Aged) -> None:
    odd = ["blobs/sha256/abc", f"blobs/md5/{'0' * 32}", f"blobs/sha256/{'A' * 64}", "other/x"]
    for key in odd:
        await aged.put(key, b"?")
    await age_all(aged)
    await collect(aged)
    assert sorted(await all_keys(aged)) == sorted([*odd, layout.LAST_COLLECTION])


async def test_a_manifest_that_cannot_be_read_stops_it(
    aged: Aged, old_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epoch.registry.proof.MAX_STORED", 100)
    await old_house.push_blob(b"garbage")
    await aged.put("manifests/r/huge.json", b"x" * 101)
    await age_all(aged)
    with pytest.raises(StoreError, match="huge"):
        await collect(aged)
    assert len(await all_keys(aged, "blobs/")) == 1


async def test_more_than_one_batch(aged: Aged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epoch.garbage.sweep.BATCH", 7)
    house = House(aged)
    for number in range(30):
        await house.push_blob(b"%d" % number)
    await age_all(aged)
    report = await collect(aged)
    assert report.removed_blobs == 30
    assert await all_keys(aged) == [layout.LAST_COLLECTION]
    assert BATCH == 1000


class TestPins:
    """What requests and the collection tell one another."""

    async def test_relying_on_an_old_blob_keeps_it(self, aged: Aged, old_house: House) -> None:
        digest = await old_house.push_blob(b"old")
        await age_all(aged)
        pins = Pins(aged, QUICK)
        assert await pins.rely(digest) is not None
        report = await collect(aged)
        assert (report.removed_blobs, report.spared, report.notes) == (0, 1, 0)
        assert await aged.head(layout.blob(digest)) is not None
        assert (await collect(aged, dry_run=True)).removed_blobs == 0

    async def test_a_pin_is_written_once_and_only_for_what_is_old(
        self, aged: Aged, old_house: House
    ) -> None:
        digest = await old_house.push_blob(b"blob")
        pins = Pins(aged, QUICK)
        assert await pins.rely(digest) is not None
        assert await pins.rely(Digest.of(b"missing")) is None
        assert await all_keys(aged, "_pins/") == []
        await age_all(aged)
        for _ in range(3):
            assert await pins.rely(digest) is not None
        (pin,) = await all_keys(aged, "_pins/")
        assert pin.endswith(f"/sha256-{digest.hex}")

    @pytest.mark.foreign_keys
    async def test_old_pins_keep_nothing_and_go(self, aged: Aged, old_house: House) -> None:
        digest = await old_house.push_blob(b"old")
        await age_all(aged)
        bucket = int((time.time() - DAY) // TIMES.young) - 2
        await aged.put(f"_pins/{bucket}/sha256-{digest.hex}", b"")
        await aged.put(f"_pins/{bucket}/what", b"")
        report = await collect(aged)
        assert (report.removed_blobs, report.notes) == (1, 1)

    async def test_an_announced_blob_is_waited_for(self, aged: Aged, old_house: House) -> None:
        digest = await old_house.push_blob(b"old")
        await age_all(aged)
        await aged.put(f"{layout.SWEEPS}1", str(digest).encode())
        pins = Pins(aged, Times(view=0, patience=0.01, poll=0.001))
        for one in (digest, digest):
            with pytest.raises(StoreError) as caught:
                await pins.rely(one)
            assert caught.value.retry_after
        assert await pins.rely(Digest.of(b"another")) is None
        await aged.delete(layout.blob(digest))
        with pytest.raises(StoreError):  # nothing may be stored there yet
            await pins.rely(digest)
        await aged.delete(f"{layout.SWEEPS}1")
        assert await pins.rely(digest) is None

    async def test_an_announcement_that_was_left_behind_expires_and_goes(
        self, aged: Aged, old_house: House
    ) -> None:
        digest = await old_house.push_blob(b"old")
        await aged.put(f"{layout.SWEEPS}1", str(digest).encode())
        await age_all(aged)
        assert await Pins(aged, QUICK).rely(digest) is not None
        assert (await collect(aged)).notes == 1
        assert await all_keys(aged, layout.SWEEPS) == []

    async def test_a_view_is_shared_for_a_while(self, aged: Aged) -> None:
        digest = Digest.of(b"missing")
        pins = Pins(aged, Times(view=60, patience=0))
        assert await pins.rely(digest) is None
        await aged.put(f"{layout.SWEEPS}1", str(digest).encode())
        assert await pins.rely(digest) is None
        with pytest.raises(StoreError):
            await Pins(aged, Times(view=60, patience=0)).rely(digest)


async def test_the_index_stays_true(aged: Aged, old_house: House) -> None:
    subject = await old_house.image(b"subject")
    digest = await old_house.push(REPO, subject, "v1")
    referrer = await old_house.image(b"sig", subject=old_house.descriptor(subject))
    referrer_digest = await old_house.push(REPO, referrer)
    lost = await old_house.image(b"lost", subject=old_house.descriptor(subject))
    lost_digest = await old_house.push(REPO, lost)
    await old_house.push("emptied", subject, "v1")
    await old_house.list_catalog()
    # Another writer, which knows no index, deletes manifests and adds a repository.
    await aged.delete(layout.manifest_by_digest(REPO, lost_digest))
    await aged.delete(layout.manifest_by_digest("emptied", digest))
    await aged.delete(layout.manifest_by_tag("emptied", "v1"))
    await aged.put(layout.manifest_by_tag("added", "v1"), subject)
    await age_all(aged)
    report = await collect(aged)
    assert report.entries == 2
    entries = await all_keys(aged, "referrers/")
    assert [key for key in entries if lost_digest.hex in key] == []
    listed, _ = await old_house.list_referrers(REPO, digest)
    assert [entry["digest"] for entry in listed] == [str(referrer_digest)]
    assert await old_house.list_tags(REPO) == (["v1"], None)
    assert await old_house.list_catalog() == (["added", REPO], None)
    assert (await collect(aged)).entries == 0


async def test_young_entries_of_a_push_under_way_stay(aged: Aged, old_house: House) -> None:
    subject = await old_house.image(b"subject")
    key = f"referrers/{REPO}/sha256-{Digest.of(subject).hex}/sha256-{'0' * 64}.json"
    await aged.put(key, b"{}")
    assert (await collect(aged)).entries == 0
    assert await aged.head(key) is not None


async def test_expired_sessions_and_lost_multipart_uploads(aged: Aged) -> None:
    old, revived, committed = "1" * 32, "2" * 32, "3" * 32
    part = b"p" * (5 << 20)
    uploads = {}
    for session in (old, revived):
        uploads[session] = await aged.create_multipart(f"_uploads/{session}/data")
        await aged.put_part(uploads[session], 1, 0, part)
        await aged.put(f"_uploads/{session}/state/00000001", b"{}")
    await aged.put(f"_uploads/{committed}/state/00000007", b"{}")
    await aged.put("_uploads/secret", b"s" * 32)
    lost = await aged.create_multipart(layout.blob(Digest.of(b"lost")))
    await aged.put_part(lost, 1, 0, part)
    assert (await collect(aged)).sessions == 0
    assert len([one async for one in aged.list_multiparts("")]) == 3
    await age_all(aged)
    aged.multipart_age = 2 * DAY
    await aged.put(f"_uploads/{revived}/alive", b"")
    dry = await collect(aged, dry_run=True)
    report = await collect(aged)
    assert (report.sessions, report.multiparts) == (dry.sessions, dry.multiparts) == (2, 2)
    assert sorted(await all_keys(aged, "_uploads/")) == [
        f"_uploads/{revived}/alive",
        f"_uploads/{revived}/state/00000001",
        "_uploads/secret",
    ]
    (left,) = [one async for one, _ in aged.list_multiparts("")]
    assert left.key == f"_uploads/{revived}/data"
    await aged.abort_multipart(left)


DIGEST_TEXT = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"layers": [{"digest": DIGEST_TEXT}]}),
        json.dumps({"config": {"digest": DIGEST_TEXT}})[:-2],
        json.dumps({"annotations": {DIGEST_TEXT: "key"}}),
        '{"digest":"sha256\\u003a' + "a" * 64 + '"}',
        '{"digest":"\\u0073ha256:' + "\\u0061" * 64 + '","x":[[{"y":"z"}]]}',
        "\ufffd" + DIGEST_TEXT,
    ],
)
def test_digests_are_found_however_they_are_written(text: str) -> None:
    assert digests_in(text.encode()) == {DIGEST_TEXT}


def test_what_is_no_json_names_only_what_it_shows() -> None:
    assert digests_in(b'\xff\\u0061{{{"' + b"[" * 100_000) == set()
    assert digests_in(json.dumps({"mediaType": media_types.OCI_INDEX}).encode()) == set()


async def test_when_the_last_one_began(aged: Aged) -> None:
    collector = Collector(aged, min_age=DAY, session_lifetime=DAY, times=QUICK)
    assert await collector.since_last() == float("inf")
    await collector.collect(dry_run=True)
    assert await collector.since_last() == float("inf")
    await collector.collect()
    assert await collector.since_last() < 60


async def test_it_can_be_stopped(aged: Aged, old_house: House, monkeypatch: Any) -> None:
    monkeypatch.setattr("epoch.garbage.sweep.BATCH", 1)
    for number in range(3):
        await old_house.push_blob(b"%d" % number)
    await age_all(aged)
    collector = Collector(aged, min_age=DAY, session_lifetime=DAY, times=QUICK)

    def stop_at_second(stage: str, count: int) -> None:
        if (stage, count) == ("blobs", 2):
            assert not collector.sweeping
            collector.stop()

    report = await collector.collect(stop_at_second)
    assert report.removed_blobs == 1
    assert await all_keys(aged, layout.SWEEPS) == []


async def test_links_go_with_their_blobs(aged: Aged, old_house: House) -> None:
    kept = await old_house.image(b"kept")
    await old_house.push(REPO, kept, "v1")
    gone = [await old_house.push_blob(b"gone", algorithm) for algorithm in ("sha256", "sha512")]
    for digest in (Digest.of(b"kept"), *gone):
        await old_house.membership.add(REPO, digest)
        await old_house.membership.add("nested/" + REPO, digest)
    await age_all(aged)
    lost = Digest.of(b"lost")
    await old_house.membership.add(REPO, lost)
    before = await all_keys(aged, "_links/")
    assert (await collect(aged, dry_run=True)).entries == 0
    assert await all_keys(aged, "_links/") == before
    report = await collect(aged)
    assert (report.removed_blobs, report.entries) == (2, 4)
    assert sorted(await all_keys(aged, "_links/")) == sorted(
        [
            layout.link(REPO, Digest.of(b"kept")),
            layout.link("nested/" + REPO, Digest.of(b"kept")),
            layout.link(REPO, lost),  # young: its blob may be about to come again
        ]
    )
    await age_all(aged)
    assert (await collect(aged, dry_run=True)).entries == 1
    assert (await collect(aged)).entries == 1
