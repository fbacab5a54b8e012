"""Manifests as they are read back from the store, none of which is passed on unless it is the one
that was asked for.

By digest, the bytes are compared with it. A tag can stand for any manifest, so its bytes are proved
by the copy that each manifest has under its digest in the same repository, in the same size: it is
written before the tag and deleted after it. A bucket of the Go server may have lost the copy. There
the etag must be the MD5 of the bytes, as it is on most stores, and the bytes a JSON object.

An etag that only looks like an MD5, as in an encrypted bucket, proves nothing, so the object is
read again, and must be the same.

What was found to be right is remembered together with the object's etag, size and time. So most
reads of a tag are one read of the store, and bytes that change under the same etag are noticed.
"""

from __future__ import annotations

import time
from typing import Final

from epoch import layout, log
from epoch.errors import Code, RegistryError
from epoch.fan_out import both, for_each
from epoch.oci.digest import Digest
from epoch.oci.document import MAX_STORED
from epoch.oci.strict_json import parse_object
from epoch.registry import listing
from epoch.registry.tags import TagForms
from epoch.registry.whole import Reserve, read_whole
from epoch.store.base import ObjectInfo, Store
from epoch.store.etags import is_md5_of, md5_in

_REMEMBERED: Final = 4096
"""Tags whose digest is remembered; the one that was seen first goes first."""
_SETTLED: Final = 5.0
"""Seconds. An object that is older cannot share its timestamp with a later write: timestamps may
have a resolution of one second, and clocks differ."""
_READS: Final = 4
"""How often an object is read before it counts as damaged. It may also have been replaced."""


class StoredManifests:
    """Reads and checks them. To be kept by whoever reads tags often, for what it remembers."""

    def __init__(self, store: Store, forms: TagForms | None = None) -> None:
        self._store = store
        self._forms = forms or TagForms(store)
        self._seen: dict[tuple[str, str], tuple[ObjectInfo, Digest]] = {}

    async def by_digest(
        self, repository: str, digest: Digest, reserve: Reserve | None = None
    ) -> bytes | None:
        """The manifest, or None; UNKNOWN (500) where what is stored is damaged. `reserve`: see
        `read_whole`."""
        key = layout.manifest_by_digest(repository, digest)
        for _ in range(_READS):
            found = await self._read(key, reserve)
            if found is None:
                return None
            if Digest.of(found[1], digest.algorithm) == digest:
                return found[1]
        raise _damaged(repository, str(digest))

    async def by_tag(
        self, repository: str, tag: str, reserve: Reserve | None = None
    ) -> tuple[bytes, Digest] | None:
        """The manifest and the digest that the tag stands for, or None; UNKNOWN (500) where what is
        stored is damaged."""
        last = None
        for _ in range(_READS):
            found = await self._read(layout.manifest_by_tag(repository, tag), reserve)
            if found is None:
                return None
            digest = await self._judge(repository, tag, *found, is_again=found == last)
            if digest is not None:
                return found[1], digest
            last = found
        raise _damaged(repository, tag)

    async def _read(self, key: str, reserve: Reserve | None) -> tuple[ObjectInfo, bytes] | None:
        return await read_whole(lambda limit: self._store.fetch(key, limit), reserve)

    async def at(self, key: str, repository: str) -> bytes | None:
        """The manifest at the key of a digest copy or a tag of the repository."""
        found = layout.parse_manifest(key)
        if found is not None and found.digest is not None:
            return await self.by_digest(repository, found.digest)
        if found is None or found.tag is None:
            return None
        tagged = await self.by_tag(repository, found.tag)
        return None if tagged is None else tagged[0]

    async def stands_for(
        self, repository: str, tag: str, listed: ObjectInfo, digest: Digest
    ) -> bool:
        """Whether a tag, whose object was listed like this, stands for a manifest.

        One read where the tag does or its etag is an MD5, two otherwise, and none where it was read
        before; some more for a tag of the same bytes.
        """
        seen = self._remembered(repository, tag, listed)
        if seen is not None:
            return seen == digest
        last = None
        for _ in range(_READS):
            found = await self._store.fetch(layout.manifest_by_tag(repository, tag), MAX_STORED)
            if found is None:
                return False
            if Digest.of(found[1], digest.algorithm) == digest:
                return await self._is_form(repository, tag, found[1], digest)
            if is_md5_of(found[0].etag, found[1]) or found == last:
                return False
            last = found
        return False

    async def _is_form(self, repository: str, tag: str, data: bytes, digest: Digest) -> bool:
        """Whether a tag with these bytes stands for them under this one of their digests."""
        form = await self._forms.read(repository, tag)
        if form is not None and form == Digest.of(data, form.algorithm):
            return form == digest
        return digest.algorithm == "sha256" or await self._copy_of(repository, data) is None

    async def _copy_of(
        self, repository: str, data: bytes, algorithm: str = "sha256"
    ) -> ObjectInfo | None:
        """The digest copy of these bytes, if it has their size."""
        key = layout.manifest_by_digest(repository, Digest.of(data, algorithm))
        found = await self._store.head(key)
        return found if found is not None and found.size == len(data) else None

    def _remembered(self, repository: str, tag: str, info: ObjectInfo) -> Digest | None:
        seen = self._seen.get((repository, tag))
        return seen[1] if seen is not None and _is_same(seen[0], info) else None

    async def _judge(
        self, repository: str, tag: str, info: ObjectInfo, data: bytes, *, is_again: bool
    ) -> Digest | None:
        """The digest that these bytes of a tag stand for, or None if they are not proved to be the
        tag's. `is_again`: the last read gave the same."""
        seen = self._remembered(repository, tag, info)
        if seen is not None:
            return seen if Digest.of(data, seen.algorithm) == seen else None
        if len(data) != info.size:
            return None
        digest, copy = await self._resolve(repository, tag, data)
        if is_md5_of(info.etag, data):
            if copy is None and not _is_json(data):
                return None
        elif copy is None or (md5_in(info.etag) and not is_again):
            return None
        if _is_settled(info):
            name = repository, tag
            self._seen.pop(name, None)
            self._seen[name] = info, digest
            if len(self._seen) > _REMEMBERED:
                del self._seen[next(iter(self._seen))]
        return digest

    async def _resolve(
        self, repository: str, tag: str, data: bytes
    ) -> tuple[Digest, ObjectInfo | None]:
        """The digest that these bytes have under a tag, and its copy, if that has their size.

        Mostly sha256. What was pushed by another algorithm has a form that says so, or has no
        other copy.
        """
        digest = Digest.of(data)
        form, copy = await both(self._forms.read(repository, tag), self._copy_of(repository, data))
        if copy is not None and form is None:
            return digest, copy
        longer = Digest.of(data, "sha512")
        if copy is not None and form != longer:
            return digest, copy
        other = await self._copy_of(repository, data, "sha512")
        if other is not None or (copy is None and form == longer):
            return longer, other
        return digest, copy


class TagFinder:
    """Finds the tags of one manifest, as often as it is asked to; what it has read of a tag, it
    does not read again."""

    def __init__(
        self,
        store: Store,
        stored: StoredManifests,
        repository: str,
        digest: Digest,
        copy: tuple[ObjectInfo, bytes],
    ) -> None:
        """`copy`: the manifest's digest copy. Where that is damaged every tag is read, since
        nothing else tells whose it is."""
        info, data = copy
        self._store = store
        self._stored = stored
        self._repository = repository
        self._digest = digest
        self._size = len(data) if Digest.of(data, digest.algorithm) == digest else None
        is_md5 = self._size is not None and is_md5_of(info.etag, data)
        self._md5 = md5_in(info.etag) if is_md5 else None
        self._known: dict[str, tuple[ObjectInfo, bool]] = {}

    @property
    def must_read(self) -> bool:
        """Whether tags of other manifests may have to be read, since their etags tell nothing."""
        return self._md5 is None

    async def find(self) -> list[str]:
        """The tags that stand for the manifest now.

        Costs a listing of the tags, and a read of each that may be one by its size, and by its etag
        where etags are MD5 sums.
        """
        found = [one async for one in listing.tags(self._store, self._repository)]
        stand = await for_each(self._stands, [one for one in found if self._may_stand(one[1])])
        return [tag for tag in stand if tag is not None]

    def _may_stand(self, info: ObjectInfo) -> bool:
        if self._size is None:
            return True
        etag = md5_in(info.etag) if self._md5 is not None else None
        return info.size == self._size and etag in (None, self._md5)

    async def _stands(self, listed: tuple[str, ObjectInfo]) -> str | None:
        tag, info = listed
        known = self._known.get(tag)
        if known is not None and known[0] == info:
            return tag if known[1] else None
        stands = await self._stored.stands_for(self._repository, tag, info, self._digest)
        if _is_settled(info):
            self._known[tag] = info, stands
        return tag if stands else None


def _is_same(one: ObjectInfo, other: ObjectInfo) -> bool:
    """Whether both tell of the same object: lists may give a finer time than other answers."""
    times = int(one.modified), int(other.modified)
    return (one.etag, one.size, times[0]) == (other.etag, other.size, times[1])


def _is_settled(info: ObjectInfo) -> bool:
    return info.modified < time.time() - _SETTLED


def _is_json(data: bytes) -> bool:
    try:
        parse_object(data)
    except ValueError:
        return False
    return True


def _damaged(repository: str, reference: str) -> RegistryError:
    log.error("a stored manifest is damaged", repository=repository, reference=reference)
    return RegistryError(Code.UNKNOWN, "the stored manifest is damaged: push it again")
