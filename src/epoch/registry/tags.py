"""The list of tags, and the digest form that a tag was made with."""

import json
import time
from typing import Final

from epoch.digest import Digest
from epoch.errors import Code, RegistryError
from epoch.http.message import Request, Response
from epoch.names import check_name
from epoch.registry import listing
from epoch.registry.catalog import Catalog
from epoch.registry.paging import page
from epoch.registry.whole import Reserve, read_whole
from epoch.store import keys
from epoch.store.base import ObjectInfo, Store

_MAX_FORM: Final = 1024
_REMEMBERED: Final = 4096
"""Tags whose form is remembered; the one that was seen first goes first."""
_SETTLED: Final = 5.0
"""Seconds from which on an object is told from its successor by its time, which may be counted in
whole seconds by a clock that is not quite ours."""


class Tags:
    """Handler of `/v2/<name>/tags/list`."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    async def get(self, request: Request, name: str) -> Response:
        """All tags, sorted bytewise, or the page that `n` and `last` ask for.

        NAME_UNKNOWN where nothing was ever pushed. Costs one listing of the repository per page.
        """
        repository = check_name(name)
        tags = sorted(await listing.tag_names(self._store, repository))
        if not tags and not await self._catalog.has(repository):
            raise RegistryError(Code.NAME_UNKNOWN)
        shown, link = page(request, f"/v2/{repository}/tags/list", tags)
        headers = [("Content-Type", "application/json")]
        if link is not None:
            headers.append(("Link", link))
        return Response(200, headers, json.dumps({"name": repository, "tags": shown}).encode())


class TagForms:
    """What tags stand for: mostly the sha256 digest of their bytes, or else of the algorithm that
    they were pushed by (`PUT manifests/sha512:...?tag=`).

    The tag's object must be the manifest's bytes and nothing else, so the digest lies beside it,
    at `_tags/<repository>/_/<tag>`. It only counts while it is the digest of those bytes, so one
    that is out of date does no harm.

    A form is written before the object that it is for, so what was seen of it after that object
    holds for as long as the object is there: it is remembered, and most reads of a tag are one
    read of the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[tuple[str, str], tuple[ObjectInfo, str | None]] = {}

    async def read(
        self, repository: str, tag: str, reserve: Reserve | None = None
    ) -> tuple[bytes, Digest] | None:
        """The bytes of a tagged manifest and the digest that the tag stands for, or None.
        `reserve`: see `read_whole`."""
        key = keys.manifest_by_tag(repository, tag)
        found = await read_whole(lambda limit: self._store.fetch(key, limit), reserve)
        if found is None:
            return None
        info, data = found
        form = await self._form(repository, tag, info)
        if form is not None:
            digest = Digest.of(data, "sha512")
            if str(digest) == form:
                return data, digest
        return data, Digest.of(data)

    async def _form(self, repository: str, tag: str, info: ObjectInfo) -> str | None:
        name = (repository, tag)
        seen = self._seen.get(name)
        if seen is not None and seen[0] == info:
            return seen[1]
        data = await self._store.get(_form_key(repository, tag), _MAX_FORM)
        form = None if data is None else data.decode("ascii", "replace")
        if info.modified < time.time() - _SETTLED:
            self._seen.pop(name, None)
            self._seen[name] = (info, form)
            if len(self._seen) > _REMEMBERED:
                del self._seen[next(iter(self._seen))]
        return form

    async def remember(self, repository: str, tag: str, digest: Digest) -> None:
        """To be called, and waited for, before the tag is written."""
        if digest.algorithm == "sha256":
            await self.forget(repository, tag)
        else:
            await self._store.put(_form_key(repository, tag), str(digest).encode())

    async def forget(self, repository: str, tag: str) -> None:
        """To be called when the tag is deleted."""
        await self._store.delete(_form_key(repository, tag))


def _form_key(repository: str, tag: str) -> str:
    return f"_tags/{repository}/_/{tag}"
