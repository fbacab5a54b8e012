"""What is in the bucket: objects, and uploads in progress, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TypeVar

from epoch.store.base import Multipart, ObjectInfo
from epoch.store.s3.calls import Calls, Request
from epoch.store.s3.errors import NotS3
from epoch.store.s3.xml import Listing, Uploads

_T = TypeVar("_T")


class Lists:
    """Lists of what lies below `own`, the prefix of the settings."""

    def __init__(self, calls: Calls, own: str) -> None:
        self._calls = calls
        self._own = own

    async def objects(self, prefix: str, which: Mapping[str, str]) -> AsyncIterator[ObjectInfo]:
        """Every object; `which`: parameters of ListObjectsV2 that choose among them."""
        async for page in self._pages(prefix, which, lambda page: [*page.objects()]):
            for key, size, etag, modified in page:
                yield ObjectInfo(key.removeprefix(self._own), size, etag, modified)

    async def names(self, prefix: str) -> Sequence[str]:
        """The keys of the objects right below `prefix`, without it."""
        cut = len(self._own + prefix)
        pages = self._pages(prefix, {"delimiter": "/"}, Listing.keys)
        return [key[cut:] async for page in pages for key in page]

    async def uploads(self, prefix: str) -> AsyncIterator[tuple[Multipart, float]]:
        """Every multipart upload in progress, and its start (Unix seconds)."""
        whole = self._own + prefix
        query = {"uploads": "", "prefix": whole}
        seen: list[dict[str, str]] = []

        def read(body: bytes) -> tuple[list[tuple[str, str, float]], dict[str, str]]:
            page = Uploads(body, whole)
            _check_progress(page.next, seen)
            return [*page.uploads()], page.next

        while True:
            found, after = await self._calls.call(
                f"list uploads of {prefix}", Request("GET", query=query), read
            )
            for key, upload_id, began in found:
                yield Multipart(key.removeprefix(self._own), upload_id), began
            if not after:
                return
            seen.append(after)
            query = query | after

    async def _pages(
        self, prefix: str, which: Mapping[str, str], read: Callable[[Listing], Sequence[_T]]
    ) -> AsyncIterator[Sequence[_T]]:
        """What `read` makes of each page, as part of the attempt to get it."""
        whole = self._own + prefix
        query = {"list-type": "2", "prefix": whole, "encoding-type": "url", **which}
        seen = set[str]()

        def page(body: bytes) -> tuple[Sequence[_T], str]:
            listing = Listing(body, whole)
            _check_progress(listing.next, seen)
            return read(listing), listing.next

        while True:
            found, after = await self._calls.call(
                f"list {prefix}", Request("GET", query=query), page
            )
            yield found
            if not after:
                return
            seen.add(after)
            query["continuation-token"] = after


def _check_progress(after: _T, seen: set[_T] | list[_T]) -> None:
    """`NotS3`: the next page is one that we had, and the list would go on for ever."""
    if after in seen:
        raise NotS3("the list goes in a circle")
