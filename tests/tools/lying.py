"""A real store whose reads lie from without: the n-th one answers 200 and is not true."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from epoch.store.base import ObjectInfo, Store

Bytes = Callable[[bytes], bytes]
Items = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Lie:
    """What a read answers in place of the truth: other bytes, nothing at all, or another list.

    One of them is set. `keys`: only reads of these (by prefix) count, and lie.
    """

    name: str
    content: Bytes | None = None
    missing: bool = False
    items: Items | None = None
    keys: str = ""

    def __str__(self) -> str:
        return self.name


def flip_digit(data: bytes) -> bytes:
    """One hex digit of the last digest is another one."""
    at = data.rfind(b"sha256:") + len(b"sha256:")
    return data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :]


HTML: Final = b"<html><body>502 Bad Gateway</body></html>"

CONTENT_LIES: Final = (
    Lie("half", content=lambda data: data[: len(data) // 2]),
    Lie("flipped", content=flip_digit),
    Lie("html", content=lambda _: HTML),
    Lie("empty", content=lambda _: b""),
)
"""Their length is that of the answer: a size alone shows only some of them."""

MISSING: Final = Lie("missing", missing=True)

LIST_LIES: Final = (
    Lie("no list", items=lambda _: []),
    Lie("second half is gone", items=lambda items: items[: len(items) // 2]),
    Lie("first half is gone", items=lambda items: items[len(items) // 2 :]),
    Lie("one is gone", items=lambda items: items[:-1]),
)


class Lying:
    """Wraps `store`; `as_store` is what reads it. Does not close it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.reads = 0
        """Those of the kind that the lie is about, since it was told."""
        self.lied = ""
        """The last key or prefix that was lied about."""
        self._lie: Lie | None = None
        self._nth = 0
        self._for_good = False

    @property
    def as_store(self) -> Store:
        """This, as far as types go."""
        return cast(Store, self)

    def lie(self, lie: Lie, nth: int, *, for_good: bool = False) -> None:
        """Lie at the `nth` read from now on (from 1), and with `for_good` at all that follow."""
        self._lie, self._nth, self._for_good = lie, nth, for_good
        self.reads, self.lied = 0, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def close(self) -> None:
        """The wrapped store outlives this."""

    async def head(self, key: str) -> ObjectInfo | None:
        """See `Store`."""
        found = await self.store.head(key)
        lie = self._lie
        if found is None or lie is None or not lie.missing or not self._lies(key):
            return found
        return None

    async def get(self, key: str, limit: int) -> bytes | None:
        """See `Store`."""
        found = await self.fetch(key, limit)
        return None if found is None else found[1]

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """See `Store`."""
        found = await self.store.fetch(key, limit)
        lie = self._lie
        if found is None or lie is None or lie.items is not None or not self._lies(key):
            return found
        if lie.content is None:
            return None
        data = lie.content(found[1])
        return replace(found[0], size=len(data)), data

    @asynccontextmanager
    async def open(self, key: str, *span: Any) -> AsyncIterator[Any]:
        """See `Store`."""
        lie = self._lie
        async with self.store.open(key, *span) as reader:
            if reader is None or lie is None or lie.items is not None or not self._lies(key):
                yield reader
            elif lie.content is None:
                yield None
            else:
                data = lie.content(b"".join([chunk async for chunk in reader]))
                yield _Reader(replace(reader.info, size=len(data)), data)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `Store`."""
        for info in self._listed(prefix, [info async for info in self.store.list(prefix, after)]):
            yield info

    async def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """See `Store`."""
        for info in self._listed(prefix, [info async for info in self.store.list_folder(prefix)]):
            yield info

    async def list_multiparts(self, prefix: str) -> AsyncIterator[Any]:
        """See `Store`."""
        for one in self._listed(prefix, [one async for one in self.store.list_multiparts(prefix)]):
            yield one

    def _listed(self, prefix: str, found: Sequence[Any]) -> Sequence[Any]:
        lie = self._lie
        if not found or lie is None or lie.items is None or not self._lies(prefix):
            return found
        return lie.items(found)

    def _lies(self, key: str) -> bool:
        assert self._lie is not None
        if not key.startswith(self._lie.keys):
            return False
        self.reads += 1
        if self.reads != self._nth and not (self._for_good and self.reads > self._nth):
            return False
        self.lied = key
        return True


class _Reader:
    """An open object, as far as the lie goes."""

    def __init__(self, info: ObjectInfo, data: bytes) -> None:
        self.info = info
        self._data = data

    def fileno(self) -> None:
        """See `ObjectReader`."""

    def take_socket(self) -> None:
        """See `ObjectReader`."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._data:
            yield self._data
