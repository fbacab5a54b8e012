"""Whether what a manifest refers to is here, and whether a blob is referred to at all."""

from collections.abc import Container
from typing import Final

from epoch.concurrently import for_each
from epoch.digest import Digest
from epoch.errors import Code, RegistryError
from epoch.registry.document import MAX_STORED, Document
from epoch.store import keys
from epoch.store.base import ObjectInfo, Store
from epoch.store.pins import Pins

MAX_NAMED: Final = 100
"""Missing digests that an error names."""


async def check_present(
    store: Store,
    pins: Pins,
    repository: str,
    found: Document,
    strangers: Container[Digest] = (),
) -> None:
    """Raise MANIFEST_BLOB_UNKNOWN, with the missing digests as its detail, unless every blob and
    child manifest of a manifest is here. The subject may be missing. `strangers`: blobs that are
    to be taken as missing.

    The blobs stay here until the manifest is written, if that is done at once.
    """

    async def missing_blob(digest: Digest) -> str | None:
        is_here = digest not in strangers and await pins.rely(digest) is not None
        return None if is_here else str(digest)

    async def missing_child(digest: Digest) -> str | None:
        key = keys.manifest_by_digest(repository, digest)
        return str(digest) if await store.head(key) is None else None

    missing = [
        *await for_each(missing_blob, found.blobs),
        *await for_each(missing_child, found.children),
    ]
    unknown = [name for name in missing if name is not None]
    if unknown:
        raise RegistryError(
            Code.MANIFEST_BLOB_UNKNOWN,
            f"the manifest references {len(unknown)} blobs or manifests that are not here",
            detail=[{"digest": name} for name in unknown[:MAX_NAMED]],
        )
    # Children lie in the folder that the manifest is written to, and are made durable with it.
    await store.make_durable([*map(keys.blob, found.blobs)])


class References:
    """Looks for blobs in the manifests of all repositories."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def holds(self, digest: Digest) -> bool:
        """Whether any manifest of any repository names the digest. Reads all of them."""
        wanted = digest.hex.encode()

        async def names(info: ObjectInfo) -> bool:
            data = await self._store.get(info.key, MAX_STORED)
            return data is not None and wanted in data

        return any(await for_each(names, self._store.list("manifests/")))
