"""A real store whose calls fail from without: at the n-th one, before or after it was carried out,
once or from then on, as for a process that has died."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from epoch.store.base import Store, StoreError

_CALLS: Final = frozenset(
    {"head", "get", "fetch", "names", "put", "put_new", "delete", "create_multipart", "put_part"}
    | {"complete_multipart", "abort_multipart", "move", "make_durable", "sync_parts"}
)


class Failing:
    """Wraps `store`; `as_store` is what a server takes. Does not close it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[str] = []
        self.struck = False
        self._nth = 0
        self._after = False
        self._for_good = False
        self._only = ""
        self._counted = 0

    @property
    def as_store(self) -> Store:
        """This, as far as types go."""
        return cast(Store, self)

    def fail(
        self, nth: int, only: str = "", *, after: bool = False, for_good: bool = False
    ) -> None:
        """Fail at the `nth` call from now on (from 1), and with `for_good` at all that follow;
        `only`: calls of that name are counted; `after`: that one is carried out, and only its
        answer is lost."""
        self.calls.clear()
        self.struck = False
        self._nth, self._only, self._after, self._for_good = nth, only, after, for_good
        self._counted = 0

    async def close(self) -> None:
        """The wrapped store outlives this."""

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.store, name)
        if name not in _CALLS:
            return member

        async def call(*arguments: Any) -> Any:
            strikes = self._strikes(name)
            if strikes and not self._after:
                raise StoreError(f"{name}: fails as told")
            result = await member(*arguments)
            if strikes:
                raise StoreError(f"{name}: its answer is lost, as told")
            return result

        return call

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[Any]:
        """See `Store`."""
        self._may_fail("list")
        async for info in self.store.list(prefix, after):
            yield info

    async def list_folder(self, prefix: str) -> AsyncIterator[Any]:
        """See `Store`."""
        self._may_fail("list_folder")
        async for info in self.store.list_folder(prefix):
            yield info

    async def list_multiparts(self, prefix: str) -> AsyncIterator[Any]:
        """See `Store`."""
        self._may_fail("list_multiparts")
        async for upload in self.store.list_multiparts(prefix):
            yield upload

    @asynccontextmanager
    async def open(self, *arguments: Any, **named: Any) -> AsyncIterator[Any]:
        """See `Store`."""
        self._may_fail("open")
        async with self.store.open(*arguments, **named) as reader:
            yield reader

    def _may_fail(self, name: str) -> None:
        if self._strikes(name):
            raise StoreError(f"{name}: fails as told")

    def _strikes(self, name: str) -> bool:
        self.calls.append(name)
        if self.struck:
            if self._for_good:
                self._after = False
            return self._for_good
        self._counted += not self._only or name == self._only
        self.struck = self._counted == self._nth
        return self.struck
