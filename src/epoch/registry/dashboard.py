"""Keeps `catalog.json` true for the Go server, whose dashboard is read off it. We never read it.

It is one object that every writer rewrites without a condition, so this is best effort: changes
are gathered, written in the background, and given up with a line in the log when that fails.
"""

import asyncio
import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from epoch import log
from epoch.store import keys
from epoch.store.base import Store, StoreError

KEY: Final = "catalog.json"
MAX_BYTES: Final = 64 * 1024 * 1024
GATHER: Final = 1.0
"""Seconds that changes are gathered for before the object is rewritten."""

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


class Dashboard:
    """Writes which tags came and went into `catalog.json`, off every request's path."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes: dict[tuple[str, str], bool] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def changed(self, repository: str, tag: str, present: bool) -> None:
        """Note that a tag was written, or deleted."""
        self._changes[repository, tag] = present
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="catalog.json")

    async def close(self) -> None:
        """Write what is still to be written, and stop."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._changes:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), GATHER)
            changes, self._changes = self._changes, {}
            try:
                await self._write(changes)
            except StoreError as error:
                log.warn(f"{KEY} not updated", tags=len(changes), error=error)

    async def _write(self, changes: dict[tuple[str, str], bool]) -> None:
        old = await self._store.get(KEY, MAX_BYTES)
        new = apply(old, changes, datetime.now(UTC).isoformat())
        if new is None:
            log.warn(f"{KEY} is not what the Go server writes; left as it is")
        elif new != old:
            await self._store.put(KEY, new)


def apply(old: bytes | None, changes: dict[tuple[str, str], bool], now: str) -> bytes | None:
    """The new text of `catalog.json`, or None where the old one cannot be understood.

    `changes`: (repository, tag) to whether it is there; `now`: RFC 3339 with an offset. Two-space
    JSON with sorted keys, as the Go server writes it. A `null` repository crashes that server, and
    a time without an offset or a `tags` of `null` fails its pushes, so such are mended on the way.
    """
    try:
        catalog = json.loads(old) if old else {}
        found = catalog.get("repositories") or {}
        repositories = {name: _mended(name, entry, now) for name, entry in found.items() if entry}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
    for (repository, tag), present in changes.items():
        entry = repositories.setdefault(repository, {"tags": {}})
        if present:
            entry["tags"][tag] = keys.manifest_by_tag(repository, tag)
        else:
            entry["tags"].pop(tag, None)
        entry["updatedAt"] = now
        if not entry["tags"]:
            del repositories[repository]
    result = {"repositories": repositories, "updatedAt": now}
    return json.dumps(result, indent=2, sort_keys=True, ensure_ascii=False).encode()


def _mended(repository: str, entry: dict[str, Any], now: str) -> dict[str, Any]:
    tags = {tag: keys.manifest_by_tag(repository, tag) for tag in entry.get("tags") or {}}
    time = entry.get("updatedAt")
    return {"tags": tags, "updatedAt": time if _is_time(time) else now}


def _is_time(value: Any) -> bool:
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
