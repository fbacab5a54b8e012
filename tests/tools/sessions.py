"""An upload in several requests, as clients make it, and what a store holds of it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from epoch.store.base import Store
from tests.tools.client import Answer, digest_of, request


class Session:
    """One upload session of repository `name`; every request on a connection of its own."""

    def __init__(self, port: int, location: str, name: str) -> None:
        self.port = port
        self.location = location
        self.name = name

    @classmethod
    async def begin(cls, port: int, name: str = "a/b") -> Session:
        """`POST`."""
        answer = await request(port, "POST", f"/v2/{name}/blobs/uploads/", b"")
        assert answer.status == 202, answer
        assert answer.headers["range"] == "0-0"
        return cls(port, answer.headers["location"], name)

    @property
    def id(self) -> str:
        """Its last path segment."""
        return self.location.rpartition("/")[2]

    async def patch(
        self,
        body: bytes | Sequence[bytes],
        content_range: str | None = None,
        limit: float = 30.0,
    ) -> Answer:
        """`PATCH`, chunked where `body` is a sequence."""
        headers = [] if content_range is None else [f"Content-Range: {content_range}"]
        return await request(self.port, "PATCH", self.location, body, *headers, limit=limit)

    async def close(
        self,
        digest: str,
        body: bytes | Sequence[bytes] = b"",
        content_range: str | None = None,
        limit: float = 30.0,
    ) -> Answer:
        """The closing `PUT`."""
        headers = [] if content_range is None else [f"Content-Range: {content_range}"]
        target = f"{self.location}?digest={digest}"
        return await request(self.port, "PUT", target, body, *headers, limit=limit)

    async def status(self) -> Answer:
        """`GET`."""
        return await request(self.port, "GET", self.location)

    async def cancel(self) -> Answer:
        """`DELETE`."""
        return await request(self.port, "DELETE", self.location)

    async def offset(self) -> int:
        """How much has arrived, as far as `Range` can tell: 0 and 1 look alike."""
        answer = await self.status()
        assert answer.status == 204, answer
        return end_of(answer)


def end_of(answer: Answer) -> int:
    """The number of bytes that `Range` tells of; 0 and 1 look alike, and are taken for 0."""
    first, _, last = answer.headers["range"].partition("-")
    assert first == "0"
    return int(last) + 1 if last != "0" else 0


async def push(port: int, data: bytes, digest: str | None = None, *, name: str = "a/b") -> Answer:
    """As Docker does it: POST, one PATCH of unknown length, an empty PUT."""
    session = await Session.begin(port, name)
    patched = await session.patch([data[at : at + 700_001] for at in range(0, len(data), 700_001)])
    assert patched.status == 202, patched
    return await session.close(digest or digest_of(data))


async def leftovers(store: Store) -> list[str]:
    """What uploads have left behind, but for the secret and one marker of each ended session."""
    found: list[str] = []
    marked: set[str] = set()
    async for info in store.list("_uploads/"):
        _, session, *rest = info.key.split("/")
        data = {}
        if rest[:1] == ["state"]:  # a line of JSON, and its checksum
            data = json.loads((await store.get(info.key, 100_000) or b"{}").partition(b"\n")[0])
        if session not in marked and (data.get("committed") or data.get("cancelled")):
            marked.add(session)
        elif session != "secret":
            found.append(info.key)
    return found + [f"multipart {upload.key}" async for upload, _ in store.list_multiparts("")]


async def go_on(session: Session, data: bytes, digest: str | None = None) -> Answer:
    """Finish an upload of which nothing is known but its beginning: ask, send the rest, close."""
    status = await session.status()
    if status.status == 204:
        at = end_of(status)
        if at < len(data):
            answer = await session.patch(data[at:], f"{at}-{len(data) - 1}")
            # 416: all is there, and it is just being completed.
            assert answer.status in (202, 416), answer
    else:
        assert status.status == 404, status
    return await session.close(digest or digest_of(data))
