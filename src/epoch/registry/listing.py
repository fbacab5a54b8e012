"""Which tags and repositories there are, read off the keys under `manifests/`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, cast

from epoch.errors import RegistryError
from epoch.oci.digest import HEX_LENGTH, Digest
from epoch.oci.names import is_tag
from epoch.store import keys
from epoch.store.base import ObjectInfo, Store

_SUFFIX: Final = ".json"


async def tags(store: Store, repository: str) -> AsyncIterator[tuple[str, ObjectInfo]]:
    """Every tag of a repository with its object, in the order of keys, which is not that of tags
    (`v1-rc.json` < `v1.json`).

    Keys without `.json`, below a further slash, or that no client could ask for, are not tags.
    """
    prefix = keys.manifests(repository)
    async with aclosing(cast(AsyncGenerator[ObjectInfo, None], store.list_folder(prefix))) as infos:
        async for info in infos:
            tag = _tag_of(info.key[len(prefix) :])
            if tag is not None:
                yield tag, info


async def tag_names(store: Store, repository: str) -> list[str]:
    """The same tags without their objects, in any order."""
    names = await store.names(keys.manifests(repository))
    return [tag for name in names if (tag := _tag_of(name)) is not None]


def _tag_of(name: str) -> str | None:
    tag = name.removesuffix(_SUFFIX)
    return tag if tag != name and is_tag(tag) else None


async def has_manifests(store: Store, repository: str) -> bool:
    """Whether anything was pushed to the repository, and not all of it deleted."""
    # Every push writes a digest copy; the tags are looked at for buckets that lost theirs.
    async with listed(store, digests_prefix(repository)) as infos:
        async for _ in infos:
            return True
    async with aclosing(cast(AsyncGenerator[object, None], tags(store, repository))) as found:
        async for _ in found:
            return True
    return False


def listed(
    store: Store, prefix: str, after: str = ""
) -> aclosing[AsyncGenerator[ObjectInfo, None]]:
    """`store.list` for a loop that may be left early: the listing ends with the block."""
    infos = cast(AsyncGenerator[ObjectInfo, None], store.list(prefix, after))
    return aclosing(infos)


def digests_prefix(repository: str) -> str:
    """The prefix of the digest copies of a repository, without those of nested ones."""
    return f"{keys.manifests(repository)}_digests/"


def file_name(digest: Digest) -> str:
    """`<algorithm>-<hex>`: a digest as part of a key."""
    return f"{digest.algorithm}-{digest.hex}"


def digest_of_key(key: str) -> Digest | None:
    """The digest that a key's last part, `<algorithm>-<hex>.json`, names, or None."""
    name = key.rpartition("/")[2]
    algorithm, _, value = name.removesuffix(_SUFFIX).partition("-")
    if not name.endswith(_SUFFIX) or algorithm not in HEX_LENGTH:
        return None
    try:
        return Digest.parse(f"{algorithm}:{value}")
    except RegistryError:
        return None
