"""The paths whose instructions are counted: run under callgrind, by `test_instructions.py`.

    valgrind --tool=callgrind --dump-before=getppid python bench/gates/counted.py [path=extra ...]

getppid(2) is what nothing else calls: around each path it makes callgrind write down what has been
counted since, in the order of `PATHS`. `extra`: rounds of an empty loop before each call.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from epoch._fastio import Pool
from epoch.app import App
from epoch.config import Settings
from epoch.http import head
from epoch.http.body import RequestBody
from epoch.http.message import Request, Response
from epoch.http.response import render_head
from epoch.store.directory.store import DirectoryStore
from epoch.store.s3.signing import Signer

WARM: Final = 60
"""Calls beforehand: CPython specializes code that has run a few times."""
CALLS: Final = 200

PATHS: Final = ("reference", "idle", "head", "sign", "render", "dispatch", "part")

_DIGEST: Final = "sha256:" + "0123456789abcdef" * 4
_HEAD: Final = (
    f"PUT /v2/library/model/blobs/{_DIGEST} HTTP/1.1\r\nHost: registry.example\r\n"
    "User-Agent: Go-http-client/1.1\r\nContent-Length: 1073741824\r\n"
    "Content-Type: application/octet-stream\r\nAuthorization: Bearer abcdefghijklmnop\r\n"
    "Accept-Encoding: gzip\r\n\r\n"
)
_LIMITS: Final = head.Limits(head=32 << 10, target=8 << 10, fields=100)
_WIRE: Final = b"10;a=b\r\n0123456789abcdef\r\n" * 100
"""So small that hardly anything but their heads costs anything."""
IDLE: Final = 1000
"""Rounds of the empty loop in `idle`."""


def _reference() -> int:
    """The kind of work that handling requests is, with nothing of ours in it."""
    fields: dict[str, str] = {}
    for line in _HEAD.split("\r\n"):
        name, _, value = line.partition(":")
        fields[name.lower()] = f"{value.strip()};{len(fields)}"
    return sum(map(len, fields.values())) + int.from_bytes(_HEAD.encode()[:4], "big")


def _idle() -> None:
    for _ in repeat(None, IDLE):
        pass


def _head() -> None:
    head.parse(_HEAD.encode(), _LIMITS)


def _part_of(pool: Pool) -> Callable[[], None]:
    def walk() -> None:
        part = pool.lend(1 << 20, 1 << 20, 1 << 16)
        assert part is not None
        while part.room:
            with memoryview(part):
                pass
            part.advance(1 << 16)
        part.release()

    return walk


def _signing() -> Callable[[], None]:
    signer = Signer("http://127.0.0.1:9000/bucket/", "access", "secret", "us-east-1")
    query = {"partNumber": "17", "uploadId": "2~abcdefghijklmnopqrstuvwxyz"}
    key = f"epoch/blobs/sha256/{_DIGEST[7:]}"

    def sign() -> None:
        signer.sign("PUT", key, query, now=1.7e9)

    return sign


def _rendering() -> Callable[[], None]:
    always = b"Docker-Distribution-API-Version: registry/2.0\r\n"
    fields = [
        ("Location", f"/v2/library/model/blobs/{_DIGEST}"),
        ("Docker-Content-Digest", _DIGEST),
    ]
    response = Response(201, fields)

    def render() -> None:
        render_head(response, always, keep_alive=True)

    return render


class _Wire:
    """A connection that nothing is asked of."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def send_continue(self) -> None: ...

    async def reserve(self, size: int) -> None:
        pass

    def unread(self) -> int:
        return 0


def _dispatching(app: App) -> Callable[[], None]:
    parsed = head.parse(b"GET /v2/ HTTP/1.1\r\nHost: registry.example\r\n\r\n", _LIMITS)

    def dispatch() -> None:
        body = RequestBody(_Wire(), parsed.length, 1 << 40)
        request = Request(parsed.method, parsed.path, parsed.query, parsed.headers, body, "peer")
        try:
            app.handle(request).send(None)
        except StopIteration:
            return
        raise AssertionError("it waits for something")

    return dispatch


def _section(path: Callable[[], object], extra: int) -> None:
    os.getppid()
    for _ in repeat(None, CALLS):
        for _ in repeat(None, extra):
            pass
        path()
    os.getppid()


async def _main(extras: dict[str, int]) -> None:
    with TemporaryDirectory(prefix="bench-gates-") as folder:
        app = App(Settings(), DirectoryStore(Path(folder)))
        paths = {
            "reference": _reference,
            "idle": _idle,
            "head": _head,
            "sign": _signing(),
            "render": _rendering(),
            "dispatch": _dispatching(app),
            "part": _part_of(Pool(1 << 20)),
        }
        assert tuple(paths) == PATHS
        for path in paths.values():
            for _ in repeat(None, WARM):
                path()
        gc.disable()
        for name, path in paths.items():
            _section(path, extras.get(name, 0))
        await app.close()


if __name__ == "__main__":
    pairs = (argument.split("=") for argument in sys.argv[1:])
    asyncio.run(_main({name: int(extra) for name, extra in pairs}))
