"""The catalog: which repositories hold manifests.

Listing `manifests/` costs one request per thousand manifests, so every repository has a marker
object, `_catalog/<repository>/_`, and the catalog is a listing of those. In a bucket that was
written without them they are made from the manifests once, and `_catalog/_complete` says so.

A push makes the marker before it writes a manifest, and a deletion removes it after it has found
the repository empty. Where the two meet, the push writes it again: see `epoch.registry.deletions`,
for which the marker holds a random token that each deletion replaces.
"""

import asyncio
import json
import secrets

from epoch import layout
from epoch.fan_out import for_each
from epoch.http.message import Request, Response
from epoch.oci.names import is_name
from epoch.registry.listing import has_manifests, listed
from epoch.registry.paging import page
from epoch.store.base import ObjectInfo, Store
from epoch.store.readonly import unless_denied


class Catalog:
    """The markers of repositories, and the handler of `/v2/_catalog`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scan = asyncio.Lock()

    async def marker(self, repository: str) -> ObjectInfo | None:
        """The marker, or None where the repository holds nothing."""
        return await self._store.head(layout.catalog_marker(repository))

    async def mark(self, repository: str) -> ObjectInfo | None:
        """Note that a repository holds a manifest, or is about to; the marker. None where a
        deletion has just removed it again."""
        found = await self.marker(repository)
        if found is None:
            await self._put(repository)
            found = await self.marker(repository)
        else:
            await self._store.make_durable([found.key])
        return found

    async def renew(self, repository: str) -> None:
        """Note that something was deleted: put the marker anew, or remove it where nothing is left.

        In this order: of two deletions that look at once, the one that looks last removes it.
        """
        await self._put(repository)
        if not await has_manifests(self._store, repository):
            await self._store.delete(layout.catalog_marker(repository))

    async def _put(self, repository: str) -> None:
        await self._store.put(layout.catalog_marker(repository), secrets.token_hex(16).encode())

    async def has(self, repository: str) -> bool:
        """Whether anything was pushed to the repository, and not all of it deleted."""
        marked = await self.marker(repository) is not None
        return marked or await has_manifests(self._store, repository)

    async def get(self, request: Request) -> Response:
        """The sorted names of the repositories that the caller may pull from, or a page of them."""
        names = await self._ensure_complete()
        async with listed(self._store, layout.CATALOG) as infos:
            async for info in infos:
                name = layout.parse_catalog_marker(info.key)
                if name is not None and is_name(name):
                    names.add(name)
        names = {name for name in names if request.caller.may("pull", name)}
        shown, link = page(request, "/v2/_catalog", sorted(names))
        headers = [("Content-Type", "application/json")]
        if link is not None:
            headers.append(("Link", link))
        return Response(200, headers, json.dumps({"repositories": shown}).encode())

    async def _ensure_complete(self) -> set[str]:
        """Make the markers, where that was not done before. Repositories that may be without one,
        since the store does not let us write."""
        found: set[str] = set()
        if await self._store.head(layout.CATALOG_COMPLETE) is not None:
            return found
        async with self._scan:
            if await self._store.head(layout.CATALOG_COMPLETE) is not None:
                return found
            async with listed(self._store, layout.MANIFESTS) as infos:
                async for info in infos:
                    key = layout.parse_manifest(info.key)
                    if key is not None and is_name(key.repository):
                        found.add(key.repository)
            with unless_denied("markers of the catalog"):
                await for_each(self.mark, sorted(found))
                await self._store.put(layout.CATALOG_COMPLETE, b"")
                found.clear()
        return found
