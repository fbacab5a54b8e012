"""Which tags and repositories there are, read off the keys under `manifests/`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from epoch import layout
from epoch.store.base import ObjectInfo, Store


async def tags(store: Store, repository: str) -> AsyncIterator[tuple[str, ObjectInfo]]:
    """Every tag of a repository with its object, in the order of keys, which is not that of tags
    (`v1-rc.json` < `v1.json`).

    Keys without `.json`, below a further slash, or that no client could ask for, are not tags.
    """
    prefix = layout.manifests(repository)
    async with aclosing(cast(AsyncGenerator[ObjectInfo, None], store.list_folder(prefix))) as infos:
        async for info in infos:
            tag = layout.tag_in(info.key[len(prefix) :])
            if tag is not None:
                yield tag, info


async def tag_names(store: Store, repository: str) -> list[str]:
    """The same tags without their objects, in any order."""
    names = await store.names(layout.manifests(repository))
    return [tag for name in names if (tag := layout.tag_in(name)) is not None]


async def has_manifests(store: Store, repository: str) -> bool:
    """Whether anything was pushed to the repository, and not all of it deleted."""
    # Every push writes a digest copy; the tags are looked at for buckets that lost theirs.
    async with listed(store, layout.manifest_copies(repository)) as infos:
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
