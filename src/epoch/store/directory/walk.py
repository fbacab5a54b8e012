"""Listing a tree of files in the order of their full keys."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

from epoch.store.directory.files import MISSING
from epoch.store.directory.names import folder_path, swapped
from epoch.store.directory.root import Root
from epoch.store.directory.threads import Threads

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_Entry = tuple[bytes, str, os.stat_result | None]


class Walker:
    """Lists what lies in one folder of the root, whose path is `base`: empty, or with a slash at
    its end. The keys that it takes and gives begin there. `hidden`: names that are passed over."""

    def __init__(
        self, root: Root, threads: Threads, base: str = "", hidden: frozenset[str] = frozenset()
    ) -> None:
        self._root = root
        self._threads = threads
        self._base = base
        self._hidden = hidden

    async def walk(self, prefix: str, after: str = "") -> AsyncIterator[tuple[str, os.stat_result]]:
        """Every file whose key starts with `prefix` and is greater than `after`, in bytewise order.

        One directory at a time is read, in a thread, so its size bounds the memory.
        """
        wanted, last = prefix.encode(), after.encode()
        folder = prefix[: prefix.rfind("/") + 1]
        names = folder.split("/")[:-1]
        if any(name in ("", ".", "..") for name in names) or self._hidden.intersection(names[:1]):
            return
        pending: list[_Entry] = [(folder.encode(), folder, None)]
        while pending:
            raw, key, status = pending.pop()
            if status is not None:
                yield key, status
                continue
            found = await self._threads.run(f"list {prefix}", self._scan, key, wanted, last)
            if not raw:
                found = [entry for entry in found if entry[1].rstrip("/") not in self._hidden]
            pending.extend(reversed(found))

    async def files(self, folder: str) -> list[tuple[str, os.stat_result]]:
        """The files right in `folder`, whose name ends in a slash, in key order."""
        found = await self._threads.run(f"list {folder}", self._scan, folder, b"", b"")
        return [(key, status) for _, key, status in found if status is not None]

    async def names(self, folder: str) -> list[str]:
        """The names of these files, in any order."""
        return await self._threads.run(f"list {folder}", self._names, folder)

    def _names(self, folder: str) -> list[str]:
        with self._opened(folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]

    def _scan(self, folder: str, wanted: bytes, last: bytes) -> list[_Entry]:
        """The files and the directories (whose keys end in `/`) right in `folder`, in key order."""
        with self._opened(folder) as entries:
            found = [
                one
                for entry in entries
                if (one := _entry(entry, folder)) is not None and _may_hold(one[0], wanted, last)
            ]
        # As a key, what lies in directory `a` begins with `a/`: after `a-b`, though `a` is before.
        found.sort(key=lambda one: one[0])
        return found

    @contextlib.contextmanager
    def _opened(self, folder: str) -> Iterator[Iterable[os.DirEntry[str]]]:
        """What lies in a folder; nothing where it is missing."""
        with self._root.opened() as root:
            try:
                fd = os.open(self._base + folder_path(folder) or ".", _FLAGS, dir_fd=root)
            except MISSING:
                yield ()
                return
        try:
            with os.scandir(fd) as entries:
                yield entries
        finally:
            os.close(fd)


def _entry(entry: os.DirEntry[str], folder: str) -> _Entry | None:
    try:
        if entry.is_dir(follow_symlinks=False):
            key = f"{folder}{swapped(entry.name)}/"
            return key.encode(), key, None
        key = folder + entry.name
        return (key.encode(), key, entry.stat()) if entry.is_file() else None
    except (FileNotFoundError, UnicodeEncodeError):
        # Removed since the directory was read; or a name that no key can have.
        return None


def _may_hold(raw: bytes, wanted: bytes, last: bytes) -> bool:
    if raw.endswith(b"/"):
        below = raw.startswith(wanted) or wanted.startswith(raw)
        return below and (raw > last or last.startswith(raw))
    return raw.startswith(wanted) and raw > last
