"""`epoch verify`: what has rotted in the store is found, removed where that is asked for, and then
healed by the next push."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from epoch import layout
from epoch.config import S3Settings
from epoch.garbage.pins import Times
from epoch.oci.digest import Digest
from epoch.registry.verify import Damage, Verifier
from epoch.store.base import Store, StoreError
from tests.integration.registry.conftest import House, store
from tests.tools.client import Client
from tests.tools.failing import Failing
from tests.tools.fixtures import open_place
from tests.tools.lying import CONTENT_LIES, MISSING, Lie, Lying
from tests.tools.running import Running
from tests.tools.server import environment, without_nohup

__all__ = ["store"]

QUICK = Times(view=0, announce=0)
CONTENT = bytes(range(256)) * 10_000
REPO = "team/app"


def verify(place: S3Settings | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "epoch", "verify", *arguments],
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rotten(content: bytes) -> bytes:
    """Of the same length."""
    return content[:-1] + bytes([content[-1] ^ 1])


async def run(
    store: Store, *, remove: bool = False, after: str = "", parallel: int = 3
) -> tuple[list[Damage], Verifier]:
    verifier = Verifier(store, parallel=parallel, remove=remove, times=QUICK)
    found: list[Damage] = []
    await verifier.run(after, lambda *_: None, found.append)
    return found, verifier


async def test_a_blob_that_has_rotted_is_healed(running: Running, place: Any) -> None:
    """Found, and left; removed; and then stored again by the same push."""
    store = open_place(place)
    house = House(store)
    manifest = await house.image(CONTENT)
    digest = Digest.of(CONTENT)
    target = f"/v2/{REPO}/blobs/{digest}"
    async with Client(running.port) as client:
        assert (await client.request("PUT", target, CONTENT)).status == 201
        await house.push(REPO, manifest, "v1")
        await house.dashboard.close()
        fine = verify(place)
        assert (fine.returncode, fine.stderr) == (0, "")
        assert "blobs: 2 read, 2560002 bytes\nmanifests: 2 read\ndamaged: 0" in fine.stdout
        await store.put(layout.blob(digest), rotten(CONTENT))
        before = await running.keys()
        done = verify(place)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.splitlines()[0] == (
            f"damaged: {layout.blob(digest)} expected {digest} found {Digest.of(rotten(CONTENT))} "
            f"size {len(CONTENT)}"
        )
        assert await running.keys() == before
        # A right push finds it "existing": only a look at all of its bytes could tell.
        assert (await client.request("PUT", target, CONTENT)).status == 201
        assert (await client.request("GET", target)).body == rotten(CONTENT)
        removed = verify(place, "--remove")
        assert removed.returncode == 1
        assert removed.stdout.splitlines()[0].endswith(" removed")
        assert (await client.request("GET", target)).status == 404
        assert (await client.request("PUT", target, CONTENT)).status == 201
        assert (await client.request("GET", target)).body == CONTENT
    assert verify(place).returncode == 0
    await store.close()


async def test_every_kind_of_damage_is_found(store: Store) -> None:
    house = House(store)
    manifest = await house.image(b"layer")
    await house.push(REPO, manifest, "v1", "v2")
    long = await house.push_blob(b"long", "sha512")
    empty, half = await house.push_blob(b"something"), await house.push_blob(b"a whole")
    whole = await run(store)
    assert whole[0] == []
    assert (whole[1].report.blobs, whole[1].report.manifests) == (5, 3)
    wrong = {
        layout.blob(long): b"lonG",
        layout.blob(empty): b"",
        layout.blob(half): b"a wh",
        layout.manifest_by_digest(REPO, Digest.of(manifest)): manifest + b" ",
        layout.manifest_by_tag(REPO, "v2"): b"<html>",
    }
    for key, data in wrong.items():
        await store.put(key, data)
    found, verifier = await run(store, remove=True)
    # The tag v1 has lost its copy; in a bucket its MD5 still proves it.
    v1 = layout.manifest_by_tag(REPO, "v1")
    assert {one.key for one in found} - {v1} == {
        key for key in wrong if not (key.endswith("v2.json") and await _has_md5(store, key))
    }
    for one in found:
        assert one.removed == one.key.startswith("blobs/")
        assert await store.head(one.key) is None or not one.removed
        if one.key in wrong:
            assert (one.found, one.size) == (
                str(Digest.of(wrong[one.key], "sha512" if long.hex in one.key else "sha256")),
                len(wrong[one.key]),
            )
    assert verifier.report.removed == 3
    await house.dashboard.close()


async def _has_md5(store: Store, key: str) -> bool:
    info = await store.head(key)
    return info is not None and re.fullmatch('"?[0-9a-f]{32}"?', info.etag) is not None


@pytest.mark.parametrize("lie", [*CONTENT_LIES, MISSING], ids=str)
async def test_one_wrong_answer_damages_nothing(store: Store, lie: Lie) -> None:
    """Not even where it is told to remove."""
    house = House(store)
    await house.push(REPO, await house.image(b"sha256:layer"), "v1")
    before = sorted(await house.keys())
    lying = Lying(store)
    for nth in range(1, 50):
        lying.lie(lie, nth)
        found, _ = await run(lying.as_store, remove=True, parallel=1)
        assert found == []
        assert sorted(await house.keys()) == before
        if not lying.lied:
            break
    assert nth > 4
    await house.dashboard.close()


async def test_what_cannot_be_read_is_told_and_not_removed(tmp_path: Path) -> None:
    """One object: it is reported. The store as a whole: it is the end."""
    store = open_place(tmp_path)
    await store.check()
    blobs = [await House(store).push_blob(b"%d" % number) for number in range(3)]

    class Unreadable(Failing):
        """One blob is, and then perhaps all is lost."""

        is_down = False

        @asynccontextmanager
        async def open(self, *arguments: Any) -> AsyncIterator[Any]:
            if arguments == (layout.blob(sorted(blobs, key=str)[1]),):
                raise StoreError("the disk failed")
            async with self.store.open(*arguments) as reader:
                yield reader

        async def check(self) -> None:
            if self.is_down:
                raise StoreError("the store is down")

    failing = Unreadable(store)
    (damage,), verifier = await run(failing.as_store, remove=True, parallel=1)
    assert damage.found == "nothing (the disk failed)"
    assert not damage.removed
    assert verifier.report.blobs == 3
    for blob in blobs:
        assert await store.head(layout.blob(blob)) is not None

    failing.is_down = True
    verifier = Verifier(failing.as_store, parallel=1, remove=True, times=QUICK)
    with pytest.raises(StoreError, match="the store is down"):
        await verifier.run("", lambda *_: None, lambda _: None)
    rest, again = await run(store, after=verifier.report.last)
    assert rest == []
    assert (verifier.report.blobs, again.report.blobs) == (1, 2)
    await store.close()


async def test_a_blob_that_was_healed_meanwhile_is_not_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(store)
    digest = await house.push_blob(b"right")
    await store.put(layout.blob(digest), b"wrong")
    real = Verifier._read
    reads = 0

    async def read(self: Verifier, key: str, algorithm: str) -> Any:
        nonlocal reads
        reads += 1
        found = await real(self, key, algorithm)
        if reads == 2:
            await store.put(layout.blob(digest), b"right")
        return found

    monkeypatch.setattr(Verifier, "_read", read)
    (damage,), _ = await run(store, remove=True)
    assert not damage.removed
    assert await store.get(layout.blob(digest), 100) == b"right"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_in_order_and_can_be_gone_on_with(tmp_path: Path, number: signal.Signals) -> None:
    content = os.urandom(30 << 20)
    for count in range(12):
        data = content + b"%d" % count
        path = tmp_path / layout.blob(Digest.of(data))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with without_nohup():
        process = subprocess.Popen(
            [sys.executable, "-m", "epoch", "verify", "--parallel", "1"],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    # Some of it is read, and not all.
    while int(Path(f"/proc/{process.pid}/io").read_text().split()[1]) < 60 << 20:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1
    assert "interrupted" in err
    after = re.search(r"--after (\S+)", err)
    assert after
    rest = verify(tmp_path, "--after", after[1])
    assert rest.returncode == 0
    counts = [re.search(r"blobs: (\d+) read", text) for text in (out, rest.stdout)]
    assert sum(int(count[1]) for count in counts if count) == 12


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    done = verify(tmp_path, "--data-dir", "/proc/no")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
