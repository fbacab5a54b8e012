"""The kind of object that a key is for, by the parsers of `epoch.layout`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pytest

from epoch import layout
from epoch.store.directory.store import DirectoryStore
from epoch.store.s3.store import S3Store
from tests.tools.memory import MemoryStore

PARSERS: Final[Mapping[str, Callable[[str], object | None]]] = {
    "blob": layout.parse_blob,
    "manifest": layout.parse_manifest,
    "referrer": layout.parse_referrer,
    "referrers complete": layout.parse_referrers_complete,
    "catalog marker": layout.parse_catalog_marker,
    "link": layout.parse_link,
    "tag form": layout.parse_tag_form,
    "deletion": layout.parse_deletion,
    "upload": layout.parse_upload,
    "pin": layout.parse_pin,
    "sweep": layout.parse_sweep,
    "blob deletion": layout.parse_blob_deletion,
}

_SINGLE: Final = frozenset(
    {
        layout.DASHBOARD,
        layout.CATALOG_COMPLETE,
        layout.UPLOAD_SECRET,
        layout.LAST_COLLECTION,
    }
)


def kind_of(key: str) -> str | None:
    """Returns the kind of a key, itself where there is one such object, None where it is none of
    ours."""
    if key in _SINGLE:
        return key
    return next((kind for kind, parse in PARSERS.items() if parse(key) is not None), None)


@pytest.fixture(autouse=True)
def every_key_has_a_kind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fails a test after which a store in this process was written to at a key of no kind."""
    unknown: set[str] = set()

    def watch(store: type[Any], method: str) -> None:
        original = getattr(store, method)

        def watched(self: Any, *arguments: Any, **named: Any) -> Any:
            for key in arguments[: 2 if method == "move" else 1]:
                if kind_of(key) is None:
                    unknown.add(key)
            return original(self, *arguments, **named)

        monkeypatch.setattr(store, method, watched)

    for store in (DirectoryStore, S3Store, MemoryStore):
        for method in ("put", "put_new", "create_multipart", "move"):
            watch(store, method)
    yield
    if request.node.get_closest_marker("foreign_keys") is None:
        assert not unknown, "epoch.layout has no parser for these keys"
