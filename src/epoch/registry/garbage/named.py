"""What all manifests of all repositories name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from epoch.concurrently import for_each
from epoch.digest import Digest
from epoch.registry.document import MAX_STORED
from epoch.registry.garbage.batches import batches
from epoch.registry.garbage.report import Progress
from epoch.store.base import ObjectInfo, Store

_BATCH: Final = 1000
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_REPOSITORY: Final = re.compile(r"manifests/(.+?)(?:/_digests)?/[^/]+\.json", re.DOTALL)


class Named:
    """The digests that manifests name, gathered by reading every object below `manifests/`.

    Every digest in a manifest's text counts, wherever it stands and whatever the rest looks like:
    naming too much only keeps a blob. Digest copies and tags are read alike: after another writer
    they need not hold the same bytes. Memory: about 130 bytes for each distinct digest, and 150
    for each object below `manifests/`.
    """

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._digests: set[bytes] = set()
        self._read: dict[bytes, int] = {}
        self.repositories: set[str] = set()
        """Those that hold any manifest. Names are not checked."""

    async def refresh(self) -> int:
        """Read what is new or has changed since the last time; the number of objects there are.

        `StoreError` where anything cannot be read: then nothing may be removed.
        """
        count = 0

        async def read(info: ObjectInfo) -> None:
            nonlocal count
            count += 1
            self._progress("manifests", count)
            name, version = _short(info.key), hash((info.etag, info.size, info.modified))
            if self._read.get(name) == version:
                return
            data = await self._store.get(info.key, MAX_STORED)
            # One that was deleted in between still counts, if it was read before.
            if data is not None:
                self._add(info.key, data)
                self._read[name] = version

        async for batch in batches(self._store.list("manifests/"), _BATCH):
            await for_each(read, batch)
        return count

    def __contains__(self, digest: Digest) -> bool:
        return bytes.fromhex(digest.hex) in self._digests

    def has_object(self, key: str) -> bool:
        """Whether that manifest object was seen."""
        return _short(key) in self._read

    def _add(self, key: str, data: bytes) -> None:
        found = _REPOSITORY.fullmatch(key)
        if found is not None:
            self.repositories.add(found[1])
        for digest in digests_in(data):
            self._digests.add(bytes.fromhex(digest.partition(":")[2]))


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


def _short(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
