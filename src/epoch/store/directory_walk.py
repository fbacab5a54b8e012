"""Listing a tree of files in the order of their full keys."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from epoch.store.directory_files import MISSING
from epoch.store.directory_threads import Threads

_Entry = tuple[bytes, str, os.stat_result | None]


async def walk(
    threads: Threads, root: str, prefix: str, after: str, hidden: frozenset[str]
) -> AsyncIterator[tuple[str, os.stat_result]]:
    """Every file below `root` whose key (its path from `root`) starts with `prefix` and is greater
    than `after`, in bytewise order; `hidden` names at the top are passed over.

    One directory at a time is read, in a thread, so its size bounds the memory.
    """
    wanted, last = prefix.encode(), after.encode()
    folder = prefix[: prefix.rfind("/") + 1]
    names = folder.split("/")[:-1]
    if any(name in ("", ".", "..") for name in names) or hidden.intersection(names[:1]):
        return
    pending: list[_Entry] = [(folder.encode(), folder, None)]
    while pending:
        raw, key, status = pending.pop()
        if status is not None:
            yield key, status
            continue
        found = await threads.run(f"list {prefix}", _scan, root, key, wanted, last)
        if not raw:
            found = [entry for entry in found if entry[1].rstrip("/") not in hidden]
        pending.extend(reversed(found))


def files_in(root: str, folder: str) -> list[tuple[str, os.stat_result]]:
    """The files right in `folder`, whose name is empty or ends in a slash, in key order."""
    return [(key, status) for _, key, status in _scan(root, folder, b"", b"") if status is not None]


def names_in(path: str) -> list[str]:
    """The names of the files right in the directory `path`, in any order."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_file()]
    except MISSING:
        return []


def _scan(root: str, folder: str, wanted: bytes, last: bytes) -> list[_Entry]:
    """The files and the directories (whose keys end in `/`) right in `folder`, in key order."""
    try:
        with os.scandir(os.path.join(root, folder)) as entries:
            found = [
                one
                for entry in entries
                if (one := _entry(entry, folder)) is not None and _may_hold(one[0], wanted, last)
            ]
    except MISSING:
        return []
    # As a key, what lies in directory `a` begins with `a/`: after `a-b`, though `a` is before it.
    found.sort(key=lambda one: one[0])
    return found


def _entry(entry: os.DirEntry[str], folder: str) -> _Entry | None:
    key = folder + entry.name
    try:
        raw = key.encode()
        if entry.is_dir(follow_symlinks=False):
            return raw + b"/", key + "/", None
        return (raw, key, entry.stat()) if entry.is_file() else None
    except (FileNotFoundError, UnicodeEncodeError):
        # Removed since the directory was read; or a name that no key can have.
        return None


def _may_hold(raw: bytes, wanted: bytes, last: bytes) -> bool:
    if raw.endswith(b"/"):
        below = raw.startswith(wanted) or wanted.startswith(raw)
        return below and (raw > last or last.startswith(raw))
    return raw.startswith(wanted) and raw > last
