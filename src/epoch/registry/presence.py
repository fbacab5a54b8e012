"""Whether what a manifest refers to is here."""

from collections.abc import Container
from typing import Final

from epoch import layout
from epoch.errors import Code, RegistryError
from epoch.fan_out import for_each
from epoch.garbage.pins import Pins
from epoch.oci.digest import Digest
from epoch.oci.document import Document
from epoch.store.base import Store

MAX_NAMED: Final = 100
"""Missing digests that an error names."""


async def check_present(
    store: Store,
    pins: Pins,
    repository: str,
    found: Document,
    not_in_repository: Container[Digest] = (),
    *,
    sparse: bool = False,
) -> None:
    """Raise MANIFEST_BLOB_UNKNOWN, with the missing digests as its detail, unless every blob and
    child manifest of a manifest is here. The subject may be missing. `not_in_repository`: blobs
    that count as missing. `sparse`: children of an index may be missing.

    The blobs stay here until the manifest is written, if that is done at once, but for a deletion
    by request: see `confirm_present`.
    """

    async def has_blob(digest: Digest) -> bool:
        return digest not in not_in_repository and await pins.rely(digest) is not None

    async def has_child(digest: Digest) -> bool:
        return await store.head(layout.manifest_by_digest(repository, digest)) is not None

    async def missing_blob(digest: Digest) -> str | None:
        return None if await has_blob(digest) else str(digest)

    async def missing_child(digest: Digest) -> str | None:
        return None if await has_child(digest) else str(digest)

    async def missing_untyped(digest: Digest) -> str | None:
        return None if await has_blob(digest) or await has_child(digest) else str(digest)

    missing = [
        *await for_each(missing_blob, found.blobs),
        *await for_each(missing_child, () if sparse else found.children),
        *await for_each(missing_untyped, found.untyped),
    ]
    unknown = [name for name in missing if name is not None]
    if unknown:
        raise RegistryError(
            Code.MANIFEST_BLOB_UNKNOWN,
            f"the manifest references {len(unknown)} blobs or manifests that are not here",
            detail=[{"digest": name} for name in unknown[:MAX_NAMED]],
        )
    # Children lie in the folder that the manifest is written to, and are made durable with it.
    await store.make_durable([*map(layout.blob, (*found.blobs, *found.untyped))])


async def confirm_present(
    store: Store, pins: Pins, repository: str, found: Document, *, sparse: bool = False
) -> None:
    """Raise as `check_present` does where a blob has been deleted by a request since that was
    asked. To be called whenever the manifest's copy by digest was written, before its tags are."""
    if await pins.wait_for_deletions((*found.blobs, *found.untyped)):
        await check_present(store, pins, repository, found, sparse=sparse)
