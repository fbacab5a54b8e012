"""What becomes of `catalog.json`, whose reader, the Go server, is easily hurt."""

import json

import pytest

from epoch.registry.dashboard import apply

NOW = "2026-11-22T10:00:00.123456+00:00"
OLD = "2026-01-02T03:04:05.123456789+08:00"


def entry(repository: str, *tags: str, at: str = OLD) -> dict[str, object]:
    return {"tags": {tag: f"manifests/{repository}/{tag}.json" for tag in tags}, "updatedAt": at}


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


@pytest.mark.parametrize("old", [b"{", b"\xff\xfe", b"[" * 100_000, b"null x"])
def test_what_is_not_json_is_left_alone(old: bytes) -> None:
    assert apply(old, {("a", "v"): True}, NOW) is None
