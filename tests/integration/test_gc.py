"""`epoch gc` as a process, and the servers' own collections."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epoch import layout
from epoch.garbage.collector import Collector
from epoch.garbage.pins import Times
from epoch.garbage.schedule import Schedule
from epoch.oci.digest import Digest
from epoch.store.directory.store import DirectoryStore
from tests.tools.aged import Aged
from tests.tools.running import eventually
from tests.tools.server import environment

DAY = 24 * 3600.0


def gc(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "epoch", "gc", *arguments],
        env=environment(data),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def write(data: Path, content: bytes, *, age: float) -> Path:
    """A blob of that age that nothing names."""
    path = data / layout.blob(Digest.of(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_it_removes_and_tells(tmp_path: Path) -> None:
    old = write(tmp_path, b"old", age=2 * DAY)
    younger = write(tmp_path, b"younger", age=DAY / 2)
    young = write(tmp_path, b"young", age=1800)
    dry = gc(tmp_path, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "blobs would be removed: 1, 3 bytes\n" in dry.stdout
    assert old.exists()
    done = gc(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "blobs: 3 in all, 15 bytes\nblobs removed: 1, 3 bytes\n" in done.stdout
    assert not old.exists()
    assert younger.exists()
    assert "blobs removed: 1, 7 bytes\n" in gc(tmp_path, "--min-age", "1h").stdout
    assert not younger.exists()
    assert young.exists()


@pytest.mark.parametrize(
    ("arguments", "told"), [(("--min-age", "59m"), "1h"), (("--data-dir", "/proc/no"), "/proc/no")]
)
def test_what_cannot_be_is_one_line(tmp_path: Path, arguments: tuple[str, str], told: str) -> None:
    done = gc(tmp_path / "data", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert told in done.stderr


def test_a_store_that_cannot_be_read_stops_it(tmp_path: Path) -> None:
    old = write(tmp_path, b"old", age=2 * DAY)
    huge = tmp_path / "manifests" / "a" / "v1.json"
    huge.parent.mkdir(parents=True)
    huge.touch()
    os.truncate(huge, 60 << 20)
    done = gc(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "manifests/a/v1.json" in done.stderr
    assert old.exists()


@pytest.mark.parametrize("wrong", [b"", b"<html></html>", b'{"layers":[]}'])
def test_a_manifest_that_is_not_what_its_key_says_stops_it(tmp_path: Path, wrong: bytes) -> None:
    old = write(tmp_path, b"old", age=2 * DAY)
    manifest = tmp_path / layout.manifest_by_digest("a", Digest.of(b'{"names": "old"}'))
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(wrong)
    for arguments in ((), ("--dry-run",)):
        done = gc(tmp_path, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert f"manifests/a/_digests/{manifest.name}" in line
        assert "push the manifest again, or delete this object" in line
    assert old.exists()


async def test_servers_take_turns(tmp_path: Path) -> None:
    """Of three that wait for the same hour, one collects; and so it goes on."""
    store = Aged(DirectoryStore(tmp_path, fsync=False))
    await store.check()
    begun = 0

    class Counted(Collector):
        async def collect(self, *arguments: object, **named: object) -> object:  # type: ignore[override]
            nonlocal begun
            begun += 1
            return await super().collect()

    def schedule() -> Schedule:
        times = Times(view=0, announce=0)
        collector = Counted(store, min_age=DAY, session_lifetime=DAY, times=times)
        return Schedule(collector, 3600)

    await store.put(layout.LAST_COLLECTION, b"")
    store.older(3599.9, layout.LAST_COLLECTION)
    old = write(tmp_path, b"old", age=2 * DAY)
    schedules = [schedule() for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        # Without the ten minutes over which they spread.
        patch.setattr("epoch.garbage.schedule._JITTER", 0.3)
        for one in schedules:
            one.start()
        await eventually(lambda: not old.exists())
        for one in schedules:
            await one.close()
    assert 1 <= begun <= 3
    assert (await store.head(layout.LAST_COLLECTION)) is not None
    assert layout.LAST_COLLECTION not in store.ages
    again = schedule()
    again.start()
    await again.close()
    await store.close()


async def test_no_interval_no_collection(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    schedule = Schedule(Collector(store, min_age=DAY, session_lifetime=DAY), 0)
    schedule.start()
    assert schedule._task is None
    await schedule.close()
    await store.close()
