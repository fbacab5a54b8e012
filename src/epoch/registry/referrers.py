"""Which manifests name another one as their subject (distribution-spec, "Listing Referrers").

Every referrer has its own small object, `referrers/<repository>/<subject>/<referrer>.json`: no
object has two writers. It is written before the manifest and deleted after it, and counts only
while the manifest is there, so a push or a deletion that was cut short, or that another server
made, leaves nothing false. It holds the descriptor, for its size; what is answered is read off the
manifest, which is proved by its digest. Where manifests were written without such objects they are
made once, and `referrers/<repository>/_complete` says so.
"""

import asyncio
import json
from collections.abc import Container, Iterable
from typing import Any, Final
from weakref import WeakValueDictionary

from epoch import layout
from epoch.errors import Code, RegistryError
from epoch.fan_out import both, for_each
from epoch.http.message import Request, Response
from epoch.oci import document, media_types
from epoch.oci.digest import Digest
from epoch.oci.names import check_name
from epoch.oci.strict_json import parse_object
from epoch.registry.listing import listed
from epoch.registry.paging import next_link
from epoch.registry.stored import StoredManifests
from epoch.store.base import ObjectInfo, Store
from epoch.store.readonly import unless_denied

PAGE_BYTES: Final = 2 * 1024 * 1024
"""Descriptors in one answer. Common clients refuse an index above 4 MiB."""
PAGE_COUNT: Final = 1000
READS: Final = 32
"""Manifests that are read for lists at once by a process: each may have some MiB."""

Descriptor = dict[str, Any]


class Referrers:
    """The index of referrers, and the handler of `/v2/<name>/referrers/<digest>`."""

    def __init__(self, store: Store, stored: StoredManifests | None = None) -> None:
        self._store = store
        self._stored = stored or StoredManifests(store)
        self._scans: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._reads = asyncio.Semaphore(READS)

    async def add(
        self, repository: str, digest: Digest, found: document.Document, size: int
    ) -> None:
        """Index a manifest under its subject, if it has one. To be called before it is written."""
        if found.subject is not None:
            descriptor = found.descriptor(digest, size)
            data = json.dumps(descriptor, ensure_ascii=False, separators=(",", ":")).encode()
            await self._store.put(layout.referrer(repository, found.subject, digest), data)

    async def remove(self, repository: str, subject: Digest, digest: Digest) -> None:
        """Take a manifest out of the index. To be called after it is gone."""
        await self._store.delete(layout.referrer(repository, subject, digest))

    async def get(self, request: Request, name: str, reference: str) -> Response:
        """The index of the referrers of a digest, which need not be here itself.

        `artifactType` filters, and may be given more than once. Long lists are paged by Link.
        """
        repository, subject = check_name(name), Digest.parse(reference)
        types = [value for value in request.parameters("artifactType") if value]
        last = request.parameter("last") or ""
        if last and layout.parse_digest_name(last) is None:
            raise RegistryError(Code.UNSUPPORTED, "last must come from a Link", status=400)

        async def read(digest: Digest) -> Descriptor | None:
            return await self._read(repository, subject, digest)

        known: dict[Digest, Descriptor] = {}
        if await self._ensure_complete(repository):
            digests, more = await self._page(repository, subject, last)
            found = await for_each(read, digests)
        else:
            known = await self._unindexed(repository, subject)
            digests, more = _page_of(known, last)
            found = [known[digest] for digest in digests]
        if not last:
            found.extend(await self._fallback(repository, subject, known))
        shown = [
            entry
            for entry in found
            if entry is not None and (not types or entry.get("artifactType") in types)
        ]
        return _answer(repository, subject, types, shown, digests[-1] if more else None)

    async def _page(self, repository: str, subject: Digest, last: str) -> tuple[list[Digest], bool]:
        """The referrers of one page, and whether there are more."""
        prefix = layout.referrers(repository, subject)
        digests: list[Digest] = []
        room = PAGE_BYTES
        async with listed(self._store, prefix, f"{prefix}{last}.json" if last else "") as infos:
            async for info in infos:
                entry = layout.parse_referrer(info.key)
                # A nested repository may be named like a subject; its objects lie deeper.
                if entry is None or entry.repository != repository:
                    continue
                room -= info.size
                if digests and (room < 0 or len(digests) == PAGE_COUNT):
                    return digests, True
                digests.append(entry.referrer)
        return digests, False

    async def _read(self, repository: str, subject: Digest, digest: Digest) -> Descriptor | None:
        """The descriptor of an indexed referrer whose manifest is there."""
        read = await self._read_referrer(repository, digest)
        if read is None or read[0].subject != subject:
            return None
        return read[0].descriptor(digest, read[1])

    async def _fallback(
        self, repository: str, subject: Digest, known: Container[Digest]
    ) -> list[Descriptor | None]:
        """What clients listed by themselves, under the tag `<algorithm>-<hex>`, while the
        registry had no such API ("Referrers Tag Schema"), and what is not indexed nor `known`."""
        tagged = await self._stored.by_tag(repository, layout.digest_name(subject))
        if tagged is None:
            return []

        async def check(entry: Descriptor) -> Descriptor | None:
            digest = Digest.parse(entry["digest"])
            manifest, indexed = await both(
                self._store.head(layout.manifest_by_digest(repository, digest)),
                self._store.head(layout.referrer(repository, subject, digest)),
            )
            if manifest is None or indexed is not None or manifest.size != entry["size"]:
                return None
            return None if digest in known else entry

        return await for_each(check, _descriptors(tagged[0]))

    async def _ensure_complete(self, repository: str) -> bool:
        """Make the index, where that was not done before; False where the store does not let us."""
        marker = layout.referrers_complete(repository)
        if await self._store.head(marker) is not None:
            return True
        lock = self._scans.setdefault(repository, asyncio.Lock())
        async with lock:
            if await self._store.head(marker) is not None:
                return True

            async def index(info: ObjectInfo) -> bool:
                key = layout.parse_manifest(info.key)
                if key is None or key.digest is None or info.size > document.MAX_STORED:
                    return True
                return await self.index(repository, key.digest)

            with unless_denied("the index of referrers"):
                done = await for_each(index, self._store.list(layout.manifest_copies(repository)))
                # Reading must not leave an object behind for every name that somebody makes up; and
                # what was damaged may be read right the next time.
                if done and all(done):
                    await self._store.put(marker, b"")
                return True
        return False

    async def index(self, repository: str, digest: Digest) -> bool:
        """Index a manifest that is stored, if it has a subject; whether it could be read."""
        try:
            read = await self._read_referrer(repository, digest)
        except RegistryError:
            return False
        if read is not None:
            await self.add(repository, digest, *read)
        return True

    async def _unindexed(self, repository: str, subject: Digest) -> dict[Digest, Descriptor]:
        """The same from all manifests of a repository, in the order of the index."""
        found: dict[Digest, Descriptor] = {}

        async def look(info: ObjectInfo) -> None:
            key = layout.parse_manifest(info.key)
            if key is None or key.digest is None or info.size > document.MAX_STORED:
                return
            read = await self._read_referrer(repository, key.digest)
            if read is not None and read[0].subject == subject:
                found[key.digest] = read[0].descriptor(key.digest, read[1])

        await for_each(look, self._store.list(layout.manifest_copies(repository)))
        return {digest: found[digest] for digest in sorted(found, key=layout.digest_name)}

    async def _read_referrer(
        self, repository: str, digest: Digest
    ) -> tuple[document.Document, int] | None:
        """What a manifest says, and its size, where it may have a subject; UNKNOWN (500) where it
        is damaged."""
        async with self._reads:
            data = await self._stored.by_digest(repository, digest)
        if data is None or b'"subject"' not in data:
            return None
        try:
            return await document.read(data), len(data)
        except RegistryError:
            return None


def _page_of(known: dict[Digest, Descriptor], last: str) -> tuple[list[Digest], bool]:
    """The referrers of one page, and whether there are more."""
    digests = [digest for digest in known if layout.digest_name(digest) > last]
    room = PAGE_BYTES
    for count, digest in enumerate(digests):
        room -= len(json.dumps(known[digest]))
        if count and (room < 0 or count == PAGE_COUNT):
            return digests[:count], True
    return digests, False


def _answer(
    repository: str,
    subject: Digest,
    types: list[str],
    shown: list[Descriptor],
    last: Digest | None,
) -> Response:
    headers = [("Content-Type", media_types.OCI_INDEX)]
    if types:
        headers.append(("OCI-Filters-Applied", "artifactType"))
    if last is not None:
        query = [("artifactType", value) for value in types] + [("last", layout.digest_name(last))]
        headers.append(("Link", next_link(f"/v2/{repository}/referrers/{subject}", query)))
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": shown}
    body = json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(200, headers, body)


def _descriptors(data: bytes) -> Iterable[Descriptor]:
    """The usable descriptors of an index that a client wrote."""
    try:
        entries = parse_object(data).get("manifests")
    except ValueError:
        return []
    found: dict[str, Descriptor] = {}
    for entry in entries if isinstance(entries, list) else []:
        if document.is_descriptor(entry):
            found[entry["digest"]] = entry
    return found.values()


def entry_for(manifest: str, data: bytes) -> str | None:
    """The key of the entry of a manifest with these bytes at the key `manifest`: where that is a
    digest copy, and it has a subject."""
    key = layout.parse_manifest(manifest)
    if key is None or key.digest is None or b'"subject"' not in data:
        return None
    try:
        subject = document.parse(data).subject
    except RegistryError:
        return None
    return None if subject is None else layout.referrer(key.repository, subject, key.digest)
