"""The handlers of `/v2/<name>/manifests/<reference>` (distribution-spec end-3, 7a, 7b, 9)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from epoch import layout
from epoch.errors import Code, RegistryError
from epoch.fan_out import both, for_each
from epoch.garbage.pins import Pins
from epoch.http.message import Request, Response
from epoch.oci import document
from epoch.oci.digest import Digest
from epoch.oci.document import Document
from epoch.oci.names import check_name, is_tag
from epoch.registry.catalog import Catalog
from epoch.registry.dashboard import Dashboard
from epoch.registry.deletions import Deletions
from epoch.registry.membership import Membership
from epoch.registry.presence import check_present, confirm_present
from epoch.registry.referrers import Referrers
from epoch.registry.stored import StoredManifests, TagFinder
from epoch.registry.tags import TagForms
from epoch.registry.whole import Reserve
from epoch.store.base import Store

_REMEMBERED: Final = 4096
"""Manifests whose media type is remembered: a quarter of the time of a GET goes to reading it."""


@dataclass(frozen=True, slots=True)
class _Push:
    """A manifest that is stored, under its digest and these tags."""

    repository: str
    digest: Digest
    tags: Sequence[str]
    data: bytes
    found: Document

    @property
    def key(self) -> str:
        return layout.manifest_by_digest(self.repository, self.digest)


class Manifests:
    """PUT, GET, HEAD and DELETE of manifests.

    A manifest is written in this order: the repository's marker, its entry as a referrer, its
    digest copy, its tags; and deleted in the reverse order. Whatever is cut short in between, no
    tag stands for a manifest that cannot be pulled by digest, and no index misses it. What a push
    and a deletion that run at once do to one another, `epoch.registry.deletions` settles.
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
        deletions: Deletions | None = None,
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
        self._deletions = deletions or Deletions(store, catalog)
        self._forms = TagForms(store)
        self._stored = StoredManifests(store, self._forms)
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
        not_in_repository: set[Digest] = set()
        if not request.caller.sees_all:
            # Else a manifest would open the blobs of others to whoever pushes it.
            not_in_repository = await self._membership.not_in_repository(
                repository, [*found.blobs, *found.untyped]
            )
        await check_present(
            self._store, self._pins, repository, found, not_in_repository, sparse=self._sparse
        )
        push = _Push(repository, digest, tags, data, found)
        watch = await self._deletions.watch(repository)
        await self._write(push)
        while not await watch.met_nothing() and await self._write_missing(push):
            pass
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
        """Returns the media type of the manifest with this digest. It never changes, so it is
        cached."""
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
            deleting = asyncio.ensure_future(self._delete_manifest(repository, asked))
            try:
                await asyncio.shield(deleting)
            except asyncio.CancelledError:
                await asyncio.wait({deleting})  # half of it would keep pushes waiting
                raise
        else:
            if await self._store.head(layout.manifest_by_tag(repository, asked)) is None:
                raise await self._unknown(repository)
            await self._delete_tag(repository, asked)
        return Response(202)

    async def _write(self, push: _Push) -> None:
        async def remember(tag: str) -> None:
            await self._forms.remember(push.repository, tag, push.digest)

        async def write(tag: str) -> None:
            await self._store.put(layout.manifest_by_tag(push.repository, tag), push.data)
            self._dashboard.changed(push.repository, tag, present=True)

        await self._referrers.add(push.repository, push.digest, push.found, len(push.data))
        await both(self._store.put(push.key, push.data), for_each(remember, push.tags))
        await confirm_present(
            self._store, self._pins, push.repository, push.found, sparse=self._sparse
        )
        await for_each(write, push.tags)

    async def _write_missing(self, push: _Push) -> bool:
        """Write again what deletions beside the push took; whether anything was missing. A tag that
        stands for another manifest by now is not."""

        async def missing(wanted: Sequence[str]) -> list[str]:
            return [key for key in wanted if await self._store.head(key) is None]

        once = [layout.catalog_marker(push.repository), push.key]
        if push.found.subject is not None:
            once.append(layout.referrer(push.repository, push.found.subject, push.digest))
        by_tag = {layout.manifest_by_tag(push.repository, tag): tag for tag in push.tags}
        tags = [by_tag[key] for key in await missing(list(by_tag))]
        if not tags and not await missing(once):
            return False
        await self._catalog.mark(push.repository)
        await self._write(replace(push, tags=tags))
        return True

    async def _find(
        self, repository: str, asked: Digest | str, reserve: Reserve
    ) -> tuple[bytes, Digest]:
        if isinstance(asked, Digest):
            data = await self._stored.by_digest(repository, asked, reserve)
            found = None if data is None else (data, asked)
        else:
            found = await self._stored.by_tag(repository, asked, reserve) if is_tag(asked) else None
        if found is None:
            raise await self._unknown(repository)
        return found

    async def _unknown(self, repository: str) -> RegistryError:
        known = await self._catalog.has(repository)
        return RegistryError(Code.MANIFEST_UNKNOWN if known else Code.NAME_UNKNOWN)

    async def _delete_manifest(self, repository: str, digest: Digest) -> None:
        key = layout.manifest_by_digest(repository, digest)
        copy = await self._store.fetch(key, document.MAX_STORED)
        if copy is None:
            raise await self._unknown(repository)
        finder = TagFinder(self._store, self._stored, repository, digest, copy)
        if finder.must_read:
            await finder.find()  # so that little has to be read while pushes wait

        async def delete_tag(tag: str) -> None:
            await self._delete_tag(repository, tag)

        async with self._deletions.announced(repository):
            await for_each(delete_tag, await finder.find())
            await self._store.delete(key)
            subject = await _subject_of(copy[1])
            if subject is not None:
                await self._referrers.remove(repository, subject, digest)

    async def _delete_tag(self, repository: str, tag: str) -> None:
        await self._store.delete(layout.manifest_by_tag(repository, tag))
        await self._forms.forget(repository, tag)
        self._dashboard.changed(repository, tag, present=False)


async def _subject_of(data: bytes) -> Digest | None:
    try:
        return (await document.read(data)).subject
    except RegistryError:
        return None


def _parse(reference: str) -> Digest | str:
    """A digest, or what can only be a tag. DIGEST_INVALID for what was meant as a digest."""
    return Digest.parse(reference) if ":" in reference else reference
