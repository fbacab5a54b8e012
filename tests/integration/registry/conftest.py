"""The registry's handlers over real stores, without a socket: `house` has one of each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from epoch import layout
from epoch._fastio import PartBuffer, fill
from epoch.download.blobs import BlobDownloads
from epoch.errors import Code, RegistryError
from epoch.garbage.pins import Pins, Times
from epoch.garbage.references import References
from epoch.http.message import BodySink, BodyStream, Flow, Request, Response
from epoch.oci import media_types
from epoch.oci.digest import Digest
from epoch.registry.catalog import Catalog
from epoch.registry.dashboard import Dashboard
from epoch.registry.deletions import WAITS, Deletions, Waits
from epoch.registry.manifests import Manifests
from epoch.registry.membership import Membership
from epoch.registry.referrers import Referrers
from epoch.registry.tags import Tags
from epoch.store.base import Store
from epoch.store.directory.store import DirectoryStore
from epoch.store.s3.store import S3Store

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

QUICK = Times(view=0, announce=0)
"""Nobody waits, so each looks for himself."""


class NoFlow:
    """Of a body that nobody sends."""

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def unread(self) -> int:
        return 0

    def fail(self, error: Exception) -> None:
        raise error


class HeldBody:
    """A request body that has come whole."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def length(self) -> int | None:
        return len(self._data)

    async def read(self, limit: int) -> bytes:
        if len(self._data) > limit:
            raise RegistryError(Code.SIZE_INVALID, status=413)
        return self._data

    async def into(self, make_sink: Callable[[Flow], BodySink]) -> int:
        sink = make_sink(NoFlow())
        if self._data:  # a few bytes, so that there is room for them
            buffer = sink.get_buffer(len(self._data))
            if isinstance(buffer, PartBuffer):
                fill(buffer, self._data)
            else:
                memoryview(buffer)[: len(self._data)] = self._data
            sink.received(len(self._data))
        return len(self._data)


class House:
    """The handlers over one store, and what a client would do with them."""

    def __init__(
        self,
        store: Store,
        times: Times = QUICK,
        *,
        dashboard: Dashboard | None = None,
        waits: Waits = WAITS,
    ) -> None:
        self.store = store
        pins = Pins(store, times)
        self.referrers = Referrers(store)
        self.catalog = Catalog(store)
        self.dashboard = dashboard or Dashboard(store)
        self.manifests = Manifests(
            store,
            self.referrers,
            self.catalog,
            self.dashboard,
            4096,
            pins,
            deletions=Deletions(store, self.catalog, waits),
        )
        self.tags = Tags(store, self.catalog)
        self.membership = Membership(store)
        self.blobs = BlobDownloads(store, References(store).search, self.membership.has, pins=pins)

    def request(
        self,
        method: str = "GET",
        query: list[tuple[str, str]] | None = None,
        body: bytes = b"",
        **headers: str,
    ) -> Request:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Request(method, "/", query or [], named, HeldBody(body), "127.0.0.1")

    async def push_blob(self, content: bytes, algorithm: str = "sha256") -> Digest:
        digest = Digest.of(content, algorithm)
        await self.store.put(layout.blob(digest), content)
        return digest

    async def image(self, *layers: bytes, algorithm: str = "sha256", **more: Any) -> bytes:
        """The bytes of an image manifest whose blobs have been pushed."""

        async def push(content: bytes, media_type: str) -> dict[str, Any]:
            digest = await self.push_blob(content, algorithm)
            return self.descriptor(content, media_type, digest)

        value = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": await push(b"{}", CONFIG_TYPE),
            "layers": [await push(layer, LAYER_TYPE) for layer in layers],
            **more,
        }
        return json.dumps(value).encode()

    def descriptor(
        self,
        content: bytes,
        media_type: str = media_types.OCI_MANIFEST,
        digest: Digest | None = None,
    ) -> dict[str, Any]:
        return {
            "mediaType": media_type,
            "digest": str(digest or Digest.of(content)),
            "size": len(content),
        }

    def index(self, *children: bytes, **more: Any) -> bytes:
        manifests = [self.descriptor(child) for child in children]
        value = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": manifests,
            **more,
        }
        return json.dumps(value).encode()

    async def put(
        self, name: str, reference: str, data: bytes, *tags: str, **headers: str
    ) -> Response:
        request = self.request("PUT", [("tag", tag) for tag in tags], data, **headers)
        return await self.manifests.put(request, name, reference)

    async def push(self, name: str, data: bytes, *tags: str) -> Digest:
        """Push a manifest by digest with tags, as it must go; returns its digest."""
        digest = Digest.of(data)
        response = await self.put(name, str(digest), data, *tags)
        assert response.status == 201
        return digest

    async def get(self, name: str, reference: object) -> Response:
        return await self.manifests.get(self.request(), name, str(reference))

    async def delete(self, name: str, reference: object) -> Response:
        return await self.manifests.delete(self.request("DELETE"), name, str(reference))

    async def list_tags(self, name: str, *query: tuple[str, str]) -> tuple[list[str], str | None]:
        response = await self.tags.get(self.request(query=list(query)), name)
        listed = json.loads(self.body(response))
        assert listed["name"] == name
        return listed["tags"], self.header(response, "Link")

    async def list_referrers(
        self, name: str, digest: object, *query: tuple[str, str]
    ) -> tuple[list[Any], Response]:
        request = self.request(query=list(query))
        response = await self.referrers.get(request, name, str(digest))
        listed = json.loads(self.body(response))
        assert response.status == 200
        assert self.header(response, "Content-Type") == listed["mediaType"] == media_types.OCI_INDEX
        assert listed["schemaVersion"] == 2
        return listed["manifests"], response

    async def list_catalog(self, *query: tuple[str, str]) -> tuple[list[str], str | None]:
        response = await self.catalog.get(self.request(query=list(query)))
        return json.loads(self.body(response))["repositories"], self.header(response, "Link")

    def header(self, response: Response, name: str) -> str | None:
        found = [value for key, value in response.headers if key == name]
        assert len(found) <= 1
        return found[0] if found else None

    def body(self, response: Response) -> bytes:
        assert isinstance(response.body, bytes)
        return response.body

    async def read(self, response: Response) -> bytes:
        """What would be sent of a stream, which is closed as the connection would."""
        body = response.body
        assert not isinstance(body, bytes)
        stream: BodyStream = body
        try:
            return b"".join([chunk async for chunk in stream])
        finally:
            await stream.aclose()

    async def refused(self, answer: Awaitable[Response]) -> tuple[int, Code]:
        with pytest.raises(RegistryError) as caught:
            await answer
        return caught.value.status, caught.value.code

    async def keys(self, prefix: str = "") -> list[str]:
        return [info.key async for info in self.store.list(prefix)]


@pytest.fixture(params=["directory", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store: Store
    if request.param == "directory":
        store = DirectoryStore(tmp_path, fsync=False)
    else:
        store = S3Store(request.getfixturevalue("s3_settings"))
    await store.check()
    yield store
    await store.close()


@pytest.fixture
async def house(store: Store) -> AsyncIterator[House]:
    house = House(store)
    yield house
    await house.dashboard.close()
