"""The bytes of a manifest object, proved: a blob is garbage because of what they do not name."""

from __future__ import annotations

from typing import Final

from epoch import layout
from epoch.errors import RegistryError
from epoch.oci import document
from epoch.oci.digest import HEX_LENGTH, Digest
from epoch.oci.document import MAX_STORED
from epoch.store.base import ObjectInfo, Store, StoreError
from epoch.store.etags import is_md5_of, md5_in

ATTEMPTS: Final = 4
"""Reads of one object. One that was wrong for a moment needs two or three."""


class Unproved(StoreError):
    """An object is not what it should be, however often it is read. `data`: the last answer."""

    def __init__(self, key: str, data: bytes | None, reason: str) -> None:
        super().__init__(f"read {key}: {reason}", retry_after=None)
        self.data = data


async def read_proved(store: Store, listed: ObjectInfo) -> bytes | None:
    """The bytes of an object below `manifests/`, as a list or a HEAD described it; None: it has
    been deleted since. `Unproved` where they cannot be proved.

    They have the size that the store itself names, and

    * those of a digest copy have the digest that is its name;
    * those of any other object have the MD5 that is its etag (of an object that was stored in one
      piece it is, on most stores), or were read twice with the same result. Those of a tag must
      then have a copy by digest in the repository; or, where the etag is no MD5, at least be a
      manifest by the rules for a push: a bucket of the Go server may have lost the copy.

    An object that has changed since is looked at again, and so is one whose GET answers 404:
    nothing follows from one answer alone.
    """
    key, info = listed.key, listed
    named = layout.parse_manifest(key)
    digest = None if named is None else named.digest
    last: bytes | None = None
    for _ in range(ATTEMPTS):
        found = await store.fetch(key, MAX_STORED)
        if found is None or not _is_same(found[0], info):
            looked = await store.head(key)
            if looked is None:
                return None
            info = looked
        if found is None or not _is_same(found[0], info) or len(found[1]) != info.size:
            continue
        data = found[1]
        if digest is not None:
            if Digest.of(data, digest.algorithm) == digest:
                return data
        elif is_md5_of(info.etag, data) or (
            data == last and await _is_plausible(store, info, data)
        ):
            return data
        last = data
    raise Unproved(key, last, _reason(digest, info, last))


def _is_same(one: ObjectInfo, other: ObjectInfo) -> bool:
    return (one.size, one.etag.strip('"')) == (other.size, other.etag.strip('"'))


async def has_copy(store: Store, repository: str, data: bytes) -> bool:
    """Whether the repository has a manifest by the digest of these bytes."""
    for algorithm in HEX_LENGTH:
        key = layout.manifest_by_digest(repository, Digest.of(data, algorithm))
        if await store.head(key) is not None:
            return True
    return False


async def _is_plausible(store: Store, info: ObjectInfo, data: bytes) -> bool:
    """Whether bytes that were read twice can be those of the object."""
    key = layout.parse_manifest(info.key)
    if key is None or key.tag is None:
        return True  # not ours, so it may be anything
    if await has_copy(store, key.repository, data):
        return True
    if md5_in(info.etag):
        return False  # an MD5, and not theirs; or encrypted, and then the copy is needed
    try:
        document.parse(data)
    except RegistryError:
        return False
    return True


def _reason(digest: Digest | None, info: ObjectInfo, data: bytes | None) -> str:
    if data is None:
        return f"the store never gave the {info.size} bytes that it lists: check the store"
    if digest is not None:
        actual = Digest.of(data, digest.algorithm)
        return f"its bytes are {actual}: push the manifest again, or delete this object"
    return (
        f"{Digest.of(data)}, which no manifest of the repository has, and nothing else proves "
        "these bytes: push the tag again, or delete this object"
    )
