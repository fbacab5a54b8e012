"""The handlers that receive blobs (distribution-spec end-4, 5, 6, 11, 13, 14)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from epoch import layout
from epoch.config import UploadSettings
from epoch.errors import Code, RegistryError
from epoch.garbage.pins import Pins
from epoch.http.message import Request, Response
from epoch.oci.digest import HEX_LENGTH, Digest
from epoch.oci.names import check_name, is_name
from epoch.store.base import Store, StoreError
from epoch.upload.budget import Budget
from epoch.upload.chunked import Chunked
from epoch.upload.pushes import Pushes
from epoch.upload.session_store import Sessions

IGNORED_BODY: Final = 65536
"""Bytes of a body that a POST which begins an upload may have for no reason; it is dropped."""


class BlobUploads:
    """`PUT blobs/<digest>`, `POST blobs/uploads/`, and all of `blobs/uploads/<session>`."""

    def __init__(
        self,
        store: Store,
        settings: UploadSettings,
        belongs: Callable[[str, Digest], Awaitable[bool]],
        link: Callable[[str, Digest], Awaitable[None]] | None = None,
        pins: Pins | None = None,
    ) -> None:
        """`belongs`: whether a blob may be mounted from a repository by who may not pull
        everywhere. `link`: notes that a blob was pushed to one; None where nobody is to ask."""
        self._belongs = belongs
        self._link = link
        self._pushes = Pushes(store, settings, pins)
        self._chunked = Chunked(self._pushes, Sessions(store))

    @property
    def budget(self) -> Budget:
        """The memory of all pushes."""
        return self._pushes.budget

    async def put(self, request: Request, name: str, reference: str) -> Response:
        """`PUT /v2/<name>/blobs/<digest>`: the whole blob in one request. Not in the OCI spec.

        64 bare hex digits are taken as sha256, as the Go server's clients send them.
        """
        check_name(name)
        digest = Digest.parse(reference if ":" in reference else f"sha256:{reference}")
        return await self._push(request, name, digest)

    async def post(self, request: Request, name: str) -> Response:
        """`POST blobs/uploads/`: with `?digest=` the whole blob, with `?mount=` one that is here
        already, else the begin of an upload."""
        check_name(name)
        digest = request.parameter("digest")
        if digest is not None:
            return await self._push(request, name, Digest.parse(digest))
        mount = request.parameter("mount")
        if mount is not None and (found := await self._mount(request, name, mount)):
            return found
        algorithm = request.parameter("digest-algorithm")
        if algorithm is not None and algorithm not in HEX_LENGTH:
            raise RegistryError(
                Code.DIGEST_INVALID, f"only these algorithms are known: {', '.join(HEX_LENGTH)}"
            )
        await request.body.read(IGNORED_BODY)
        return await self._chunked.begin(name)

    async def status(self, _request: Request, name: str, session: str) -> Response:
        """`GET blobs/uploads/<session>`: what has been received."""
        return await self._chunked.status(check_name(name), session)

    async def patch(self, request: Request, name: str, session: str) -> Response:
        """`PATCH blobs/uploads/<session>`: more bytes."""
        return await self._chunked.patch(request, check_name(name), session)

    async def put_upload(self, request: Request, name: str, session: str) -> Response:
        """`PUT blobs/uploads/<session>?digest=`: the end, with the last bytes or all of them."""
        check_name(name)
        text = request.parameter("digest")
        if text is None:
            raise RegistryError(Code.DIGEST_INVALID, "the closing PUT needs ?digest=<digest>")
        digest = Digest.parse(text)
        began = time.monotonic()
        response = await self._chunked.close(request, name, session, digest)
        await self._stored(name, digest, began)
        return response

    async def cancel(self, _request: Request, name: str, session: str) -> Response:
        """`DELETE blobs/uploads/<session>`: give up."""
        return await self._chunked.cancel(check_name(name), session)

    async def close(self) -> None:
        """Wait for the work in the background."""
        await self._pushes.close()

    async def _push(self, request: Request, name: str, digest: Digest) -> Response:
        _check_framing(request, digest)
        began = time.monotonic()
        await self._pushes.push(request.body, digest)
        await self._stored(name, digest, began)
        return _created(name, digest)

    async def _mount(self, request: Request, name: str, mount: str) -> Response | None:
        """201 where the blob is here and may be read; None, whatever the reason, where not: the
        client then uploads it (distribution-spec, "Mounting a blob from another repository")."""
        source = request.parameter("from") or name
        try:
            digest = Digest.parse(mount)
        except RegistryError:
            return None
        if not is_name(source) or not request.caller.may("pull", source):
            return None
        if not request.caller.sees_all and not await self._belongs(source, digest):
            return None
        began = time.monotonic()
        if await self._pushes.pins.rely(digest) is None:
            return None
        await self._pushes.store.make_durable([layout.blob(digest)])
        await request.body.read(IGNORED_BODY)
        await self._stored(name, digest, began)
        return _created(name, digest)

    async def _stored(self, name: str, digest: Digest, began: float) -> None:
        """Note that a blob belongs to a repository, and see that it was not deleted meanwhile."""
        if self._link is not None:
            await self._link(name, digest)
        if not await self._pushes.pins.is_kept(digest, began):
            raise StoreError(f"{digest} was deleted while it was pushed: push it again")


def _created(name: str, digest: Digest) -> Response:
    headers = [
        ("Location", f"/v2/{name}/blobs/{digest}"),
        ("Docker-Content-Digest", str(digest)),
    ]
    return Response(201, headers)


def _check_framing(request: Request, digest: Digest) -> None:
    """A body without a length is an empty one, which only the digest of nothing can mean."""
    headers = request.headers
    if "content-length" in headers or "transfer-encoding" in headers:
        return
    if digest != Digest.of(b"", digest.algorithm):
        raise RegistryError(
            Code.SIZE_INVALID,
            "a blob needs Content-Length or Transfer-Encoding: chunked",
            status=411,
        )
