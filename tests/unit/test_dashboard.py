"""What becomes of `catalog.json`, whose reader, the Go server, is easily hurt."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from epoch import layout
from epoch.registry import dashboard
from epoch.registry.dashboard import Changes, Dashboard, rewritten
from epoch.store.base import Store, StoreError
from epoch.store.directory.store import DirectoryStore
from tests.tools.aged import Aged

NOW = "2026-11-22T10:00:00.123456+00:00"
OLD = "2026-01-02T03:04:05.123456789+08:00"


def entry(repository: str, *tags: str, at: str = OLD) -> dict[str, object]:
    return {"tags": {tag: f"manifests/{repository}/{tag}.json" for tag in tags}, "updatedAt": at}


def apply(old: bytes | None, changes: Changes, now: str) -> bytes | None:
    steps = rewritten(old, changes, now)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            text: bytes | None = end.value
            return text


def change(old: object, **changes: bool) -> object:
    data = None if old is None else json.dumps(old).encode()
    new = apply(data, {("a/b", tag): present for tag, present in changes.items()}, NOW)
    return None if new is None else json.loads(new)


def test_the_first_tag_starts_the_file() -> None:
    text = apply(None, {("a/b", "v1"): True}, NOW)
    assert text is not None
    assert text.decode() == (
        '{\n  "repositories": {\n    "a/b": {\n      "tags": {\n'
        '        "v1": "manifests/a/b/v1.json"\n      },\n'
        f'      "updatedAt": "{NOW}"\n    }}\n  }},\n  "updatedAt": "{NOW}"\n}}'
    )


def test_other_entries_stay_as_they_are() -> None:
    old = {"repositories": {"x": entry("x", "t"), "a/b": entry("a/b", "v1")}, "updatedAt": OLD}
    assert change(old, v2=True) == {
        "repositories": {"x": entry("x", "t"), "a/b": entry("a/b", "v1", "v2", at=NOW)},
        "updatedAt": NOW,
    }


def test_a_repository_goes_with_its_last_tag() -> None:
    old = {"repositories": {"a/b": entry("a/b", "v1", "v2")}, "updatedAt": OLD}
    assert change(old, v1=False) == {
        "repositories": {"a/b": entry("a/b", "v2", at=NOW)},
        "updatedAt": NOW,
    }
    assert change(old, v1=False, v2=False) == {"repositories": {}, "updatedAt": NOW}
    assert change(None, v1=False) == {"repositories": {}, "updatedAt": NOW}


@pytest.mark.parametrize("hurt", [None, {}, {"tags": None}, {"tags": None, "updatedAt": OLD}])
def test_what_would_crash_the_go_server_is_mended(hurt: object) -> None:
    new = change({"repositories": {"a/b": hurt, "x": entry("x", "t")}, "updatedAt": None}, v=True)
    assert new == {
        "repositories": {"a/b": entry("a/b", "v", at=NOW), "x": entry("x", "t")},
        "updatedAt": NOW,
    }


@pytest.mark.parametrize(
    "time", [None, 5, "", "2026-01-02", "2026-01-02T03:04:05", "2026-13-02T03:04:05Z", OLD + "x"]
)
def test_a_time_that_go_cannot_read_is_replaced(time: object) -> None:
    old = {"repositories": {"x": {"tags": {"t": 5}, "updatedAt": time}}, "updatedAt": time}
    new = change(old, v=True)
    assert new == {
        "repositories": {"x": entry("x", "t", at=NOW), "a/b": entry("a/b", "v", at=NOW)},
        "updatedAt": NOW,
    }


@pytest.mark.parametrize("old", ["x", [], 5, {"repositories": "x"}, {"repositories": {"x": 7}}])
def test_what_cannot_be_understood_is_left_alone(old: object) -> None:
    assert change(old, v=True) is None


@pytest.mark.parametrize(
    "old",
    [
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null x",
        b"{} x",
        b'{"a": 1,}',
        b'{"a" 1}',
        b'{"a": 1 "b"',
    ],
)
def test_what_is_not_json_is_left_alone(old: bytes) -> None:
    assert apply(old, {("a", "v"): True}, NOW) is None


def test_it_is_the_same_text_as_the_go_server_writes() -> None:
    names = ["a/b", "a-b", "z", "x/\u00e9"]
    repositories = {name: entry(name, "v10", "v2", "latest", "\u00fc") for name in names}
    old = {"updatedAt": OLD, "repositories": repositories}
    new = apply(json.dumps(old).encode(), {("z", "new"): True}, NOW)
    repositories["z"] = entry("z", "v10", "v2", "latest", "\u00fc", "new", at=NOW)
    wanted = {"repositories": repositories, "updatedAt": NOW}
    assert new == json.dumps(wanted, indent=2, sort_keys=True, ensure_ascii=False).encode()


@pytest.mark.timed
@pytest.mark.parametrize(("repositories", "tags"), [(1, 100_000), (1000, 100)])
def test_no_step_holds_the_loop(repositories: int, tags: int) -> None:
    old = {
        "repositories": {
            f"r{number}": entry(f"r{number}", *[f"v{tag}" for tag in range(tags)])
            for number in range(repositories)
        }
    }
    # The least of three: whatever else the machine does takes from the caches of this.
    assert min(longest_step(json.dumps(old).encode()) for _ in range(3)) < 0.01


def longest_step(old: bytes) -> float:
    """Seconds of CPU."""
    steps, longest = rewritten(old, {("new", "v"): True}, NOW), 0.0
    ended = False
    while not ended:
        began = time.thread_time()
        ended = next(steps, True) is True
        longest = max(longest, time.thread_time() - began)
    return longest


class Failing(Aged):
    """Fails the first two reads."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.failures = [asyncio.Event(), asyncio.Event()]

    async def get(self, key: str, limit: int) -> bytes | None:
        if waiting := [failure for failure in self.failures if not failure.is_set()]:
            waiting[0].set()
            raise StoreError("get: not now")
        return await super().get(key, limit)


async def test_changes_outlive_a_store_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "GATHER", 0.01)
    directory = DirectoryStore(tmp_path)
    await directory.check()
    store = Failing(directory)
    found = Dashboard(store)
    found.changed("a/b", "v1", present=True)
    found.changed("a/b", "v2", present=True)
    await store.failures[0].wait()
    found.changed("a/b", "v1", present=False)
    await store.failures[1].wait()
    await found.close()
    text = await store.get(layout.DASHBOARD, dashboard.MAX_BYTES)
    assert text is not None
    assert list(json.loads(text)["repositories"]["a/b"]["tags"]) == ["v2"]
    await store.close()


async def test_what_waits_for_a_store_that_fails_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "MAX_PENDING", 2)
    directory = DirectoryStore(tmp_path)
    await directory.check()
    found = Dashboard(directory)
    for tag in ("v1", "v2", "v3"):
        found.changed("a/b", tag, present=True)
    await found.close()
    text = await directory.get(layout.DASHBOARD, dashboard.MAX_BYTES)
    assert text is not None
    assert list(json.loads(text)["repositories"]["a/b"]["tags"]) == ["v1", "v2"]
    await directory.close()
