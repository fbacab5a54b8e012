"""A server that may not write to its store, by its credentials or since the disk has become
read-only: whatever only reads is answered."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from epoch import layout
from epoch.config import S3Settings
from epoch.errors import Code
from epoch.garbage.collector import Collector
from epoch.oci.digest import Digest
from epoch.registry.membership import Membership
from epoch.store import readonly
from epoch.store.base import Store, StoreError
from epoch.store.directory.files import explained
from tests.integration.registry.conftest import House
from tests.tools.aged import Aged
from tests.tools.client import Client
from tests.tools.failing import Failing
from tests.tools.fixtures import open_place
from tests.tools.running import serving

DAY = 24 * 3600.0
REPO = "team/app"
LAYER = b"a layer of long ago"


class ReadOnly(Failing):
    """A directory on a file system that has become read-only."""

    def __getattr__(self, name: str) -> Any:
        if name in ("head", "get", "fetch", "names", "presign", "description", "check"):
            return getattr(self.store, name)

        async def denied(*_: object) -> None:
            with explained(name):
                raise OSError(errno.EROFS, "Read-only file system")

        return denied


class Stores:
    """One store as seen by somebody who may write, and by the server."""

    def __init__(self, writer: Store, reader: Store) -> None:
        self.writer = Aged(writer)
        self.reader = Aged(reader)
        self.reader.ages = self.writer.ages


@pytest.fixture(params=["directory", "s3"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    if request.param == "directory":
        writer = open_place(tmp_path)
        await writer.check()
        reader = cast(Store, ReadOnly(writer))
    else:
        settings: S3Settings = request.getfixturevalue("s3_settings")
        writer = open_place(settings)
        reader = open_place(request.getfixturevalue("s3_reader"))
        await reader.check()
    yield Stores(writer, reader)
    await writer.close()
    if request.param == "s3":
        await reader.close()


async def fill(stores: Stores) -> tuple[bytes, bytes]:
    """A manifest and one that refers to it, as another server left them: without any index."""
    house = House(stores.writer)
    manifest = await house.image(LAYER)
    signature = await house.image(b"signature", subject=house.descriptor(manifest))
    for data in (manifest, signature):
        await stores.writer.put(layout.manifest_by_digest(REPO, Digest.of(data)), data)
    await stores.writer.put(layout.manifest_by_tag(REPO, "v1"), manifest)
    stores.writer.older(2 * DAY, *[info.key async for info in stores.writer.list("")])
    return manifest, signature


async def all_keys(store: Store) -> list[str]:
    return sorted([info.key async for info in store.list("")])


async def test_every_read_is_answered(stores: Stores) -> None:
    manifest, signature = await fill(stores)
    digest, layer = Digest.of(manifest), Digest.of(LAYER)
    before = await all_keys(stores.writer)
    async with serving(stores.reader) as running, Client(running.port) as client:

        async def ask(method: str, target: str, *more: Any, status: int = 200) -> bytes:
            for _ in range(2):
                answer = await client.request(method, target, *more)
                assert answer.status == status, (method, target, answer)
            return answer.body

        async def get(target: str, *headers: str, status: int = 200) -> bytes:
            return await ask("GET", target, None, *headers, status=status)

        await get("/v2/")
        await get("/healthz")
        await get("/metrics")
        assert json.loads(await get("/v2/_catalog")) == {"repositories": [REPO]}
        assert json.loads(await get(f"/v2/{REPO}/tags/list"))["tags"] == ["v1"]
        for reference in ("v1", str(digest)):
            assert await get(f"/v2/{REPO}/manifests/{reference}") == manifest
            await ask("HEAD", f"/v2/{REPO}/manifests/{reference}")
        await get(f"/v2/{REPO}/manifests/none", status=404)
        assert await get(f"/v2/{REPO}/blobs/{layer}") == LAYER
        part = await get(f"/v2/{REPO}/blobs/{layer}", "Range: bytes=0-3", status=206)
        assert part == b"a la"
        await ask("HEAD", f"/v2/{REPO}/blobs/{layer}")
        await ask("HEAD", f"/v2/{REPO}/blobs/{Digest.of(b'absent')}", status=404)
        listed = json.loads(await get(f"/v2/{REPO}/referrers/{digest}"))["manifests"]
        assert [one["digest"] for one in listed] == [str(Digest.of(signature))]
        assert json.loads(await get(f"/v2/{REPO}/referrers/{layer}"))["manifests"] == []
        await get(f"/v2/{REPO}/blobs/uploads/nothing", status=404)
        # What a client would rely on has to be written: it is asked to come back.
        await ask("PUT", f"/v2/{REPO}/manifests/v2", manifest, status=503)
        await ask("PUT", f"/v2/{REPO}/blobs/{layer}", LAYER, status=503)
        await ask("DELETE", f"/v2/{REPO}/blobs/{layer}", status=405)
        await ask("DELETE", f"/v2/{REPO}/manifests/v1", status=503)
    assert await all_keys(stores.writer) == before


async def test_whose_pulls_are_limited_reads_too(stores: Stores) -> None:
    await fill(stores)
    membership = Membership(stores.reader)
    assert await membership.has(REPO, Digest.of(LAYER))
    assert not await membership.has("other", Digest.of(LAYER))


async def test_referrers_are_paged_without_an_index(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = await fill(stores)
    house = House(stores.writer)
    for number in range(4):
        described = house.descriptor(manifest)
        data = await house.image(b"%d" % number, subject=described)
        await stores.writer.put(layout.manifest_by_digest(REPO, Digest.of(data)), data)
    whole, _ = await House(stores.reader).list_referrers(REPO, Digest.of(manifest))
    assert len(whole) == 5
    for limit in ("PAGE_COUNT", "PAGE_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(f"epoch.registry.referrers.{limit}", 2 if limit == "PAGE_COUNT" else 500)
            paged, query = [], list[tuple[str, str]]()
            while True:
                reader = House(stores.reader)
                listed, answer = await reader.list_referrers(REPO, Digest.of(manifest), *query)
                paged += listed
                link = reader.header(answer, "Link")
                if link is None:
                    break
                query = [("last", link.partition("last=")[2].partition(">")[0])]
        assert paged == whole
    # And with it: in the same order.
    indexed, _ = await house.list_referrers(REPO, Digest.of(manifest))
    assert indexed == whole


async def test_it_is_logged_once_a_minute(
    stores: Stores, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(stores)
    house = House(stores.reader)
    monkeypatch.setattr(readonly, "_logged", {})

    async def head() -> int:
        answer = await house.blobs.get(house.request("HEAD"), REPO, str(Digest.of(LAYER)))
        return answer.status

    for _ in range(3):
        assert await head() == 200
    assert len([one for one in caplog.messages if "denies" in one]) == 1
    assert "pins" in caplog.text
    monkeypatch.setattr(readonly, "_LOG_INTERVAL", 0.0)
    assert await head() == 200
    assert len([one for one in caplog.messages if "denies" in one]) == 2


async def test_other_failures_are_none_of_these(tmp_path: Path) -> None:
    """A store that fails is not taken for one that only reads."""
    store = open_place(tmp_path)
    await store.check()
    aged = Aged(store)
    house = House(aged)
    digest = await house.push_blob(LAYER)
    aged.older(2 * DAY, layout.blob(digest))
    failing = Failing(aged)
    failing.fail(2)  # the first is the HEAD, the second the pin
    answer = House(failing.as_store).blobs.get(house.request("HEAD"), REPO, str(digest))
    with pytest.raises(StoreError, match="put: fails"):
        await answer
    await store.close()


async def test_collections_say_what_they_may_not(stores: Stores) -> None:
    await fill(stores)
    collector = Collector(stores.reader, min_age=DAY, session_lifetime=DAY)
    assert (await collector.collect(dry_run=True)).removed_blobs == 0
    with pytest.raises(StoreError) as caught:
        await collector.collect()
    assert caught.value.denied


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO])
def test_errors_of_a_directory_that_mean_it(number: int) -> None:
    with pytest.raises(StoreError) as caught, explained("put x"):
        raise OSError(number, "why")
    assert caught.value.denied == (number != errno.EIO)
    assert Code.UNAVAILABLE.status == 503
