"""The list of tags, and the digest form that a tag was made with."""

import json
from typing import Final

from epoch import layout
from epoch.errors import Code, RegistryError
from epoch.http.message import Request, Response
from epoch.oci.digest import Digest
from epoch.oci.names import check_name
from epoch.registry import listing
from epoch.registry.catalog import Catalog
from epoch.registry.paging import page
from epoch.store.base import Store

_MAX_FORM: Final = 1024


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
    """The digests of tags that were pushed by another algorithm than sha256
    (`PUT manifests/sha512:...?tag=`).

    The tag's object must be the manifest's bytes and nothing else, so the digest lies beside it,
    at `_tags/<repository>/_/<tag>`. It only counts while it is the digest of those bytes, so one
    that is out of date does no harm, and where it is missing the tag stands for the copy that is
    there. A form is written before the object that it is for, so what was seen of it after that
    object holds for as long as the object is there.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, repository: str, tag: str) -> Digest | None:
        """The form of a tag, or None: sha256."""
        data = await self._store.get(layout.tag_form(repository, tag), _MAX_FORM)
        try:
            return None if data is None else Digest.parse(data.decode("ascii", "replace"))
        except RegistryError:
            return None

    async def remember(self, repository: str, tag: str, digest: Digest) -> None:
        """To be called, and waited for, before the tag is written."""
        if digest.algorithm == "sha256":
            await self.forget(repository, tag)
        else:
            await self._store.put(layout.tag_form(repository, tag), str(digest).encode())

    async def forget(self, repository: str, tag: str) -> None:
        """To be called when the tag is deleted."""
        await self._store.delete(layout.tag_form(repository, tag))
