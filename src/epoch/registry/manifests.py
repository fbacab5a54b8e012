"""The handlers of `/v2/<name>/manifests/<reference>` (distribution-spec end-3, 7a, 7b, 9)."""

from typing import Final

from epoch.concurrently import both, for_each
from epoch.digest import Digest
from epoch.errors import Code, RegistryError
from epoch.http.message import Request, Response
from epoch.names import check_name, is_tag
from epoch.registry import document, listing
from epoch.registry.catalog import Catalog
from epoch.registry.dashboard import Dashboard
from epoch.registry.document import Document
from epoch.registry.membership import Membership
from epoch.registry.presence import check_present, confirm_present
from epoch.registry.referrers import Referrers
from epoch.registry.tags import TagForms
from epoch.registry.whole import Reserve, read_whole
from epoch.store import keys
from epoch.store.base import Store
from epoch.store.pins import Pins

_REMEMBERED: Final = 4096
"""Manifests whose media type is remembered: a quarter of the time of a GET goes to reading it."""


class Manifests:
    """PUT, GET, HEAD and DELETE of manifests.

    A manifest is written in this order: its entry as a referrer, its digest copy, its tags; and
    deleted in the reverse order. Whatever is cut short in between, no tag stands for a manifest
    that cannot be pulled by digest, and no referrer is missing from its index. There are no locks,
    so a push and a deletion of the same manifest that run at once each look again at the end.
    """

    def __init__(
        self,
        store: Store,
        referrers: Referrers,
        catalog: Catalog,
        dashboard: Dashboard,
        max_size: int,
        pins: Pins | None = None,
        membership: Membership | None = None,
        *,
        sparse: bool = False,
    ) -> None:
        """`max_size`: the most bytes of a manifest that is pushed. `sparse`: whether an index may
        name manifests that are not here."""
        self._store = store
        self._pins = pins or Pins(store)
        self._membership = membership or Membership(store)
        self._referrers = referrers
        self._catalog = catalog
        self._dashboard = dashboard
        self._forms = TagForms(store)
        self._max_size = max_size
        self._sparse = sparse
        self._types: dict[Digest, str] = {}

    async def put(self, request: Request, name: str, reference: str) -> Response:
        """Store a manifest under a tag, or under its digest and any number of `?tag=`.

        201; or 413 above the size limit, DIGEST_INVALID, MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN.
        """
        repository = check_name(name)
        asked = _parse(reference)
        extra = list(dict.fromkeys(request.parameters("tag")))
        tags = extra if isinstance(asked, Digest) else list(dict.fromkeys([asked, *extra]))
        for tag in tags:
            if not is_tag(tag):
                raise RegistryError(Code.MANIFEST_INVALID, "invalid tag")
        data = await request.body.read(self._max_size)
        digest = Digest.of(data, asked.algorithm if isinstance(asked, Digest) else "sha256")
        if isinstance(asked, Digest) and digest != asked:
            raise RegistryError(Code.DIGEST_INVALID, "the manifest does not have this digest")
        found = await document.read(data, request.headers.get("content-type"))
        strangers: set[Digest] = set()
        if not request.caller.sees_all:
            # Else a manifest would open the blobs of others to whoever pushes it.
            strangers = await self._membership.strangers(repository, [*found.blobs, *found.untyped])
        await check_present(
            self._store, self._pins, repository, found, strangers, sparse=self._sparse
        )
        await self._write(repository, digest, tags, data, found)
        headers = [
            ("Location", f"/v2/{repository}/manifests/{digest}"),
            ("Docker-Content-Digest", str(digest)),
            *(("OCI-Tag", tag) for tag in extra),
        ]
        if found.subject is not None:
            headers.append(("OCI-Subject", str(found.subject)))
        return Response(201, headers)

    async def get(self, request: Request, name: str, reference: str) -> Response:
        """The exact bytes of a manifest; the same for HEAD; or 304 by If-None-Match. `Accept` is
        not looked at: a manifest is never converted, and clients judge the type that they get."""
        repository = check_name(name)
        data, digest = await self._find(repository, _parse(reference), request.reserve)
        etag = f'"{digest}"'
        if request.has_version(etag):
            return Response(304, [("Docker-Content-Digest", str(digest)), ("ETag", etag)])
        headers = [
            ("Content-Type", await self._type_of(digest, data)),
            ("Docker-Content-Digest", str(digest)),
            ("ETag", etag),
        ]
        return Response(200, headers, data)

    async def _type_of(self, digest: Digest, data: bytes) -> str:
        """The media type of bytes that have this digest, and so for ever."""
        found = self._types.get(digest)
        if found is None:
            if len(self._types) >= _REMEMBERED:
                self._types.clear()
            found = self._types[digest] = await document.read_media_type(data)
        return found

    async def delete(self, _request: Request, name: str, reference: str) -> Response:
        """Delete a tag; or a manifest by its digest, and every tag that stands for it. 202."""
        repository = check_name(name)
        asked = _parse(reference)
        if isinstance(asked, Digest):
            await self._delete_manifest(repository, asked)
            await self._catalog.remove_if_empty(repository)
        else:
            if await self._store.head(keys.manifest_by_tag(repository, asked)) is None:
                raise await self._unknown(repository)
            await self._delete_tag(repository, asked)
        return Response(202)

    async def _write(
        self, repository: str, digest: Digest, tags: list[str], data: bytes, found: Document
    ) -> None:
        key = keys.manifest_by_digest(repository, digest)
        await self._referrers.add(repository, digest, found, len(data))
        await self._store.put(key, data)
        await self._confirm_present(repository, found)

        async def write_tag(tag: str) -> None:
            await self._forms.remember(repository, tag, digest)
            await self._store.put(keys.manifest_by_tag(repository, tag), data)
            self._dashboard.changed(repository, tag, present=True)

        async def confirm() -> None:
            if await self._store.head(key) is None:
                await self._store.put(key, data)
                await self._confirm_present(repository, found)
            await self._referrers.add(repository, digest, found, len(data))

        await for_each(write_tag, tags)
        await both(self._catalog.add(repository), confirm())

    async def _confirm_present(self, repository: str, found: Document) -> None:
        await confirm_present(self._store, self._pins, repository, found, sparse=self._sparse)

    async def _find(
        self, repository: str, asked: Digest | str, reserve: Reserve
    ) -> tuple[bytes, Digest]:
        if isinstance(asked, Digest):
            key = keys.manifest_by_digest(repository, asked)
            data = await read_whole(lambda limit: self._store.get(key, limit), reserve)
            if data is None:
                raise await self._unknown(repository)
            if Digest.of(data, asked.algorithm) != asked:
                # Seen in buckets where anybody could push to `<repository>/_digests`.
                raise RegistryError(Code.UNKNOWN, "the stored manifest is damaged: push it again")
            return data, asked
        tagged = await self._forms.read(repository, asked, reserve) if is_tag(asked) else None
        if tagged is None:
            raise await self._unknown(repository)
        return tagged

    async def _unknown(self, repository: str) -> RegistryError:
        known = await self._catalog.has(repository)
        return RegistryError(Code.MANIFEST_UNKNOWN if known else Code.NAME_UNKNOWN)

    async def _delete_manifest(self, repository: str, digest: Digest) -> None:
        key = keys.manifest_by_digest(repository, digest)
        data = await self._store.get(key, document.MAX_STORED)
        if data is None:
            raise await self._unknown(repository)
        await self._delete_tags_of(repository, digest, len(data))
        await self._store.delete(key)
        await self._delete_tags_of(repository, digest, len(data))
        try:
            found = await document.read(data)
        except RegistryError:
            return
        if found.subject is not None:
            await self._referrers.remove(repository, found.subject, digest)
            if await self._store.head(key) is not None:
                await self._referrers.add(repository, digest, found, len(data))

    async def _delete_tags_of(self, repository: str, digest: Digest, size: int) -> None:
        async def delete_if_same(tag: str) -> None:
            tagged = await self._forms.read(repository, tag)
            if tagged is not None and tagged[1] == digest:
                await self._delete_tag(repository, tag)

        found = listing.tags(self._store, repository)
        await for_each(delete_if_same, [tag async for tag, info in found if info.size == size])

    async def _delete_tag(self, repository: str, tag: str) -> None:
        await self._store.delete(keys.manifest_by_tag(repository, tag))
        await self._forms.forget(repository, tag)
        self._dashboard.changed(repository, tag, present=False)


def _parse(reference: str) -> Digest | str:
    """A digest, or what can only be a tag. DIGEST_INVALID for what was meant as a digest."""
    return Digest.parse(reference) if ":" in reference else reference
