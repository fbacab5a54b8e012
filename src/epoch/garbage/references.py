"""What all manifests of all repositories name."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from epoch import layout
from epoch.garbage.reader import ManifestReader
from epoch.oci.digest import Digest
from epoch.progress import Progress
from epoch.registry.referrers import entry_for
from epoch.store.base import Store

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class ReferencedDigests:
    """The digests that manifests name, gathered by reading every object below `manifests/`.

    Every digest in a manifest's text counts, wherever it stands and whatever the rest looks like:
    naming too much only keeps a blob. Digest copies and tags are read alike: after another writer
    they need not hold the same bytes. Memory: about 130 bytes for each distinct digest and 700 for
    each manifest with a subject, beside that of `ManifestReader`.
    """

    def __init__(self, store: Store, progress: Progress) -> None:
        self.manifests = ManifestReader(store, self._add, progress)
        """What reads them: to be told to, before anything is concluded from what is not named."""
        self.repositories: set[str] = set()
        """Those that hold any manifest. Names are not checked."""
        self.referrers: dict[str, str] = {}
        """The entries that the index of referrers should have, and the manifests they stand for."""
        self._digests: set[bytes] = set()

    def __contains__(self, digest: Digest) -> bool:
        return bytes.fromhex(digest.hex) in self._digests

    def _add(self, key: str, data: bytes) -> None:
        named = layout.parse_manifest(key)
        if named is not None:
            self.repositories.add(named.repository)
        entry = entry_for(key, data)
        if entry is not None:
            self.referrers[entry] = key
        for digest in digests_in(data):
            self._digests.add(bytes.fromhex(digest.partition(":")[2]))


class References:
    """Looks for blobs in the manifests of all repositories."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def search(self, digest: Digest) -> Callable[[], Awaitable[bool]]:
        """A function that says whether any manifest of any repository names the digest.

        Called for the first time it reads all of them, and then what is new. It believes nothing
        that is not proved: `StoreError` where a manifest is not what it should be.
        """
        wanted, found = str(digest), False

        def look(_key: str, data: bytes) -> None:
            nonlocal found
            found = found or wanted in digests_in(data)

        manifests = ManifestReader(self._store, look)

        async def is_named() -> bool:
            await manifests.confirm()
            return found

        return is_named


def digests_in(data: bytes) -> set[str]:
    """All digests in the text of a manifest, also those that JSON's escapes hide."""
    text = data.decode("utf-8", "replace")
    found = set(_DIGEST.findall(text))
    if "\\" in text:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return found  # no reader of manifests gets further than this
        for string in _strings(value):
            found.update(_DIGEST.findall(string))
    return found


def _strings(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            pending.extend(one)
        elif isinstance(one, dict):
            pending.extend(one)
            pending.extend(one.values())
