"""The catalog: which repositories hold manifests.

Listing `manifests/` costs one request per thousand manifests, so every repository has an empty
marker object, `_catalog/<repository>/_`, and the catalog is a listing of those. In a bucket that
was written without them they are made from the manifests once, and `_catalog/_complete` says so.
"""

import asyncio
import json
import re
from typing import Final

from epoch.concurrently import for_each
from epoch.http.message import Request, Response
from epoch.names import is_name
from epoch.registry.listing import has_manifests, listed
from epoch.registry.paging import page
from epoch.store.base import Store
from epoch.store.readonly import unless_denied

_PREFIX: Final = "_catalog/"
_COMPLETE: Final = "_catalog/_complete"
_MANIFEST: Final = re.compile(r"manifests/(.+?)(?:/_digests)?/[^/]+\.json", re.DOTALL)


class Catalog:
    """The markers of repositories, and the handler of `/v2/_catalog`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._scan = asyncio.Lock()

    async def add(self, repository: str) -> None:
        """Note that a repository holds a manifest. To be called after one was written.

        After, so that it cannot slip between the two looks of a concurrent `remove_if_empty`.
        """
        key = _marker(repository)
        if await self._store.head(key) is None:
            await self._store.put(key, b"")
        else:
            await self._store.make_durable([key])

    async def has(self, repository: str) -> bool:
        """Whether anything was pushed to the repository, and not all of it deleted."""
        marked = await self._store.head(_marker(repository)) is not None
        return marked or await has_manifests(self._store, repository)

    async def remove_if_empty(self, repository: str) -> None:
        """Note that a repository may have lost its last manifest."""
        if await has_manifests(self._store, repository):
            return
        await self._store.delete(_marker(repository))
        if await has_manifests(self._store, repository):
            await self.add(repository)

    async def get(self, request: Request) -> Response:
        """The sorted names of the repositories that the caller may pull from, or a page of them."""
        names = await self._ensure_complete()
        async with listed(self._store, _PREFIX) as infos:
            async for info in infos:
                name = info.key[len(_PREFIX) :].removesuffix("/_")
                if is_name(name):
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
        if await self._store.head(_COMPLETE) is not None:
            return found
        async with self._scan:
            if await self._store.head(_COMPLETE) is not None:
                return found
            async with listed(self._store, "manifests/") as infos:
                async for info in infos:
                    matched = _MANIFEST.fullmatch(info.key)
                    if matched is not None and is_name(matched[1]):
                        found.add(matched[1])
            with unless_denied("markers of the catalog"):
                await for_each(self.add, sorted(found))
                await self._store.put(_COMPLETE, b"")
                found.clear()
        return found


def _marker(repository: str) -> str:
    # Never `_catalog/<repository>` itself: in a directory it could not also hold nested ones.
    return f"{_PREFIX}{repository}/_"
