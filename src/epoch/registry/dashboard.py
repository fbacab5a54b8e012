"""Keeps `catalog.json` true for the Go server, whose dashboard is read off it. We never read it.

It is one object that every writer rewrites without a condition: changes are gathered and written in
the background, and where the store fails they are kept and tried again. What two writers take from
one another, and what one that has died did not write, the next garbage collection mends. The object
has a line for each tag of the whole registry, so it is rewritten in short steps between which
requests are served, and the less often the longer that takes.
"""

import asyncio
import json
import re
import time
from collections.abc import Generator, Iterator, Set
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from json.decoder import scanstring  # type: ignore[attr-defined] # the stubs lack it
from typing import Any, Final

from epoch import layout, log
from epoch.fan_out import for_each, off_loop
from epoch.store.base import ObjectTooLarge, Store, StoreError

MAX_BYTES: Final = 16 * 1024 * 1024
"""Bytes above which the object is left as it is: some 300,000 tags."""

GATHER: Final = 1.0
"""Seconds that changes are gathered for before the object is rewritten."""
LONGEST_PAUSE: Final = 60.0
"""Seconds between two attempts while the store fails."""
SHARE: Final = 0.05
"""The most of one core's time that rewriting may take."""
MAX_PENDING: Final = 100_000
"""Changes that wait for a store that fails; further ones are dropped, and logged."""

STEP_SECONDS: Final = 0.002
REST_SECONDS: Final = 0.002
"""How long the loop works on the object before requests get their turn, and how long they have."""
_STEP_TAGS: Final = 64
"""Tags between two looks at the clock."""

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SPACE: Final = re.compile(r"[ \t\n\r]*")

Name = tuple[str, str]
"""A repository and a tag."""
Changes = dict[Name, bool]
"""Whether the tag is there now."""
Entry = dict[str, Any]
"""`tags`: a dict by tag; `updatedAt`."""


class Dashboard:
    """Writes which tags came and went into `catalog.json`, off every request's path."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes: Changes = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def changed(self, repository: str, tag: str, present: bool) -> None:
        """Note that a tag was written, or deleted."""
        change = repository, tag
        if len(self._changes) >= MAX_PENDING and change not in self._changes:
            log.warn(f"{layout.DASHBOARD} misses a change: too many wait for the store", tag=tag)
            return
        self._changes[change] = present
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="catalog.json")

    async def close(self) -> None:
        """Write what is still to be written, and stop; what fails now is lost."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def reconcile(self, tags: Set[Name], *, dry_run: bool = False) -> tuple[int, int]:
        """Make the object name the tags that there are: how many it missed, and how many are gone.

        `tags`: those that were there a while ago. Where it may be wrong, the tag is looked for.
        """
        try:
            old = await self._store.get(layout.DASHBOARD, MAX_BYTES) or b"{}"
        except ObjectTooLarge:
            return 0, 0
        named = await off_loop(len(old), partial(names_in, old))
        if named is None:
            return 0, 0

        async def look(name: Name) -> tuple[Name, bool]:
            return name, await self._store.head(layout.manifest_by_tag(*name)) is not None

        found = await for_each(look, sorted(named ^ tags))
        changes = {name: present for name, present in found if present != (name in named)}
        if changes and not dry_run:
            await self._write(changes)
        missed = sum(changes.values())
        return missed, len(changes) - missed

    async def _run(self) -> None:
        pause = GATHER
        while self._changes:
            await self._rest(pause)
            changes, self._changes = self._changes, {}
            try:
                spent = await self._write(changes)
            except StoreError as error:
                log.warn(f"{layout.DASHBOARD} is not updated yet", tags=len(changes), reason=error)
                if self._closing.is_set():
                    return
                self._changes = changes | self._changes
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception as error:  # noqa: BLE001 - later changes must not wait for ever
                log.error(f"{layout.DASHBOARD} is not updated", error, tags=len(changes))
            else:
                pause = max(GATHER, spent / SHARE)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def _write(self, changes: Changes) -> float:
        """Rewrite the object; returns the seconds that the loop spent on it."""
        old = await self._store.get(layout.DASHBOARD, MAX_BYTES)
        steps = rewritten(old, changes, datetime.fromtimestamp(time.time(), UTC).isoformat())
        new, spent = await _in_steps(steps)
        if new is None:
            log.warn(f"{layout.DASHBOARD} is not what the Go server writes; left as it is")
        elif new != old:
            await self._store.put(layout.DASHBOARD, new)
        return spent


async def _in_steps(work: Generator[None, None, bytes | None]) -> tuple[bytes | None, float]:
    """The result of `work` and the seconds that it took. Requests are served in between."""
    spent, began = 0.0, time.perf_counter()
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value, spent + time.perf_counter() - began
        if (step := time.perf_counter() - began) > STEP_SECONDS:
            spent += step
            await asyncio.sleep(REST_SECONDS)
            began = time.perf_counter()


def rewritten(old: bytes | None, changes: Changes, now: str) -> Generator[None, None, bytes | None]:
    """Returns the new text of `catalog.json`, or None where the old one cannot be understood.
    Yields after each short piece of work.

    `now`: RFC 3339 with an offset. The text is two-space JSON with sorted keys, as the Go server
    writes it. A `null` repository crashes that server, and a time without an offset or a `tags` of
    `null` fails its pushes, so such are mended on the way.
    """
    repositories: dict[str, Entry] = {}
    try:
        yield from _read(old.decode() if old else "{}", repositories, now)
    except (ValueError, TypeError, RecursionError):
        return None
    for (repository, tag), present in changes.items():
        entry = repositories.setdefault(repository, {"tags": {}})
        if present:
            entry["tags"][tag] = None
        else:
            entry["tags"].pop(tag, None)
        entry["updatedAt"] = now
        if not entry["tags"]:
            del repositories[repository]
        yield
    return (yield from _text(repositories, now))


def names_in(old: bytes) -> set[Name] | None:
    """The tags that are named in the text, or None where it cannot be understood."""
    repositories: dict[str, Entry] = {}
    try:
        for _ in _read(old.decode(), repositories, ""):
            pass
    except (ValueError, TypeError, RecursionError):
        return None
    return {(name, tag) for name, entry in repositories.items() for tag in entry["tags"]}


def _read(text: str, repositories: dict[str, Entry], now: str) -> Generator[None, None, None]:
    """Fill `repositories` from the text. ValueError, TypeError: it is no catalog."""
    scan = _Scan(text)
    for field in scan.members():
        if field != "repositories" or scan.is_null():
            scan.value()
            continue
        for name in scan.members():
            if scan.is_null():
                scan.value()
                continue
            entry = yield from _read_entry(scan, now)
            if entry is not None:
                repositories[name] = entry
    scan.end()


def _read_entry(scan: "_Scan", now: str) -> Generator[None, None, Entry | None]:
    """One repository; None where nothing is said of it."""
    entry: Entry = {"tags": {}, "updatedAt": now}
    said = False
    for field in scan.members():
        said = True
        if field == "tags" and not scan.is_null():
            for count, tag in enumerate(scan.members()):
                scan.value()  # a key, which follows from repository and tag
                entry["tags"][tag] = None
                if count % _STEP_TAGS == 0:
                    yield
            continue
        value = scan.value()
        if field == "updatedAt" and _is_time(value):
            entry["updatedAt"] = value
    yield
    return entry if said else None


def _text(repositories: dict[str, Entry], now: str) -> Generator[None, None, bytes]:
    """Two-space JSON with sorted keys, without a final newline. Empties `repositories`."""
    pieces = [b'{\n  "repositories": {']
    between = "\n"
    for name in sorted(repositories):
        entry = repositories.pop(name)
        pieces.append(f'{between}    {_quoted(name)}: {{\n      "tags": {{'.encode())
        yield from _tag_lines(name, sorted(entry["tags"]), pieces)
        time_text = _quoted(entry["updatedAt"])
        pieces.append(f'}},\n      "updatedAt": {time_text}\n    }}'.encode())
        between = ",\n"
    pieces.append(b"}" if between == "\n" else b"\n  }")
    pieces.append(f',\n  "updatedAt": {_quoted(now)}\n}}'.encode())
    return b"".join(pieces)


def _tag_lines(name: str, tags: list[str], pieces: list[bytes]) -> Generator[None, None, None]:
    for start in range(0, len(tags), _STEP_TAGS):
        some = tags[start : start + _STEP_TAGS]
        lines = [
            f"        {_quoted(tag)}: {_quoted(layout.manifest_by_tag(name, tag))}" for tag in some
        ]
        pieces.append((("," if start else "") + "\n" + ",\n".join(lines)).encode())
        yield
    if tags:
        pieces.append(b"\n      ")
    yield


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Scan:
    """Reads JSON one member of an object at a time, where `json.loads` would take all in one go."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = json.JSONDecoder()
        self._at = 0
        self._skip()

    def members(self) -> Iterator[str]:
        """The names in an object. After each, its value must be read before the next one."""
        self._expect("{")
        if self._next() == "}":
            self._at += 1
            self._skip()
            return
        while True:
            if self._next() != '"':
                raise ValueError("a name was expected")
            name, self._at = scanstring(self._text, self._at + 1)
            self._skip()
            self._expect(":")
            yield name
            if self._next() == "}":
                self._at += 1
                self._skip()
                return
            self._expect(",")

    def value(self) -> Any:
        """The value that comes next."""
        found, self._at = self._decoder.raw_decode(self._text, self._at)
        self._skip()
        return found

    def is_null(self) -> bool:
        """Whether `null` comes next."""
        return self._text.startswith("null", self._at)

    def end(self) -> None:
        """ValueError where anything follows."""
        if self._at != len(self._text):
            raise ValueError("more than one value")

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise ValueError(f"{character} was expected")
        self._at += 1
        self._skip()

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()


def _is_time(value: Any) -> bool:
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
