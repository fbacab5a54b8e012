"""The handlers of `/v2/<name>/blobs/<digest>` (distribution-spec end-2, end-10)."""

import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from epoch import layout
from epoch.download import ranges
from epoch.download.stream import BlobStream, HeadBody, Parts
from epoch.errors import Code, RegistryError
from epoch.garbage.pins import Pins
from epoch.http.message import Request, Response
from epoch.oci.digest import HEX_LENGTH, Digest
from epoch.oci.names import check_name
from epoch.store.base import ObjectInfo, Store

Found = TypeVar("Found")

_TYPE: Final = "application/octet-stream"

REDIRECT_SECONDS: Final = 1200
"""How long a presigned URL is good for: to begin with, the transfer itself may take longer."""


class BlobDownloads:
    """GET, HEAD and DELETE of blobs. They are stored once for all repositories, as in the Go
    server; who may not pull everywhere sees only those that belong to the one it names."""

    def __init__(
        self,
        store: Store,
        search: Callable[[Digest], Callable[[], Awaitable[bool]]],
        belongs: Callable[[str, Digest], Awaitable[bool]],
        *,
        redirect: bool = False,
        pins: Pins | None = None,
    ) -> None:
        """`search`: a function that says whether a manifest of any repository needs a blob, and
        is quick from its second call on. `belongs`: whether a blob may be read through a repository
        by who may not pull everywhere. `redirect`: answer GET with 307 to the store itself, where
        it can presign."""
        self._store = store
        self._pins = pins or Pins(store)
        self._search = search
        self._belongs = belongs
        self._redirect = redirect

    async def get(self, request: Request, name: str, reference: str) -> Response:
        """A blob or ranges of it; the same for HEAD, without the ranges (RFC 9110, 14.2).

        200, 206, 304, 307 or 416; BLOB_UNKNOWN, DIGEST_INVALID.
        """
        check_name(name)
        digest = _parse(reference)
        await self._check_visible(request, name, digest)
        key, etag = layout.blob(digest), f'"{digest}"'
        is_get = request.method == "GET"
        if not is_get or self._redirect or _is_conditional(request):
            # HEAD is how clients ask whether they need to push.
            found = self._store.head(key) if is_get else self._pins.hint(digest)
            info = _known(await found)
            if request.has_version(etag):
                return Response(304, _common(digest, etag))
            if not is_get:
                return _whole(digest, etag, HeadBody(info.size))
            if self._redirect and (url := await self._store.presign(key, REDIRECT_SECONDS)):
                headers = [("Location", url), ("Docker-Content-Digest", str(digest))]
                return Response(307, [*headers, ("Cache-Control", "no-store")])
            spans = _spans(request, etag, info.size)
            if spans is not None and len(spans) > 1:
                return await self._parts(digest, etag, spans, info)
            if spans is not None:
                return await self._part(digest, etag, spans[0], info)
        return _whole(digest, etag, _known(await BlobStream.open(self._store, key)))

    async def delete(self, request: Request, name: str, reference: str) -> Response:
        """Delete a blob that no manifest needs: 202; or BLOB_UNKNOWN, or UNSUPPORTED (405).

        Blobs are shared, so a blob that a manifest of any repository names stays. That is found
        out by reading all manifests: a rare request, and the price of pushes that write no links.
        They are read before the deletion is announced, since pushes of this blob wait from then on,
        and what came meanwhile after that. 503 where one of them is damaged.
        """
        check_name(name)
        digest = Digest.parse(reference)
        await self._check_visible(request, name, digest)
        _known(await self._store.head(layout.blob(digest)))
        is_named = self._search(digest)
        if await is_named() or not await self._pins.delete(digest, is_named):
            raise RegistryError(
                Code.UNSUPPORTED,
                "a manifest still needs this blob: delete the manifest first",
                headers=(("Allow", "GET, HEAD"),),
            )
        return Response(202)

    async def _check_visible(self, request: Request, name: str, digest: Digest) -> None:
        """BLOB_UNKNOWN, as for a blob that is not here, where the caller may not know of it."""
        if not request.caller.sees_all and not await self._belongs(name, digest):
            raise RegistryError(Code.BLOB_UNKNOWN)

    async def _part(
        self, digest: Digest, etag: str, span: ranges.Span, info: ObjectInfo
    ) -> Response:
        body = _known(await BlobStream.open(self._store, info.key, span))
        headers = _common(digest, etag)
        headers.append(("Content-Type", _TYPE))
        headers.append(("Content-Range", _content_range(span, info.size)))
        return Response(206, headers, body)

    async def _parts(
        self, digest: Digest, etag: str, spans: list[ranges.Span], info: ObjectInfo
    ) -> Response:
        """Several ranges, as `multipart/byteranges` (RFC 9110, section 14.6)."""
        boundary = secrets.token_hex(16)  # of which no blob can know
        pieces: list[bytes | ranges.Span] = []
        for span in spans:
            head = f"--{boundary}\r\nContent-Type: {_TYPE}\r\n"
            head += f"Content-Range: {_content_range(span, info.size)}\r\n\r\n"
            pieces += [(("\r\n" if pieces else "") + head).encode(), span]
        pieces.append(f"\r\n--{boundary}--\r\n".encode())
        body = Parts(self._store, info, pieces)
        await body.open()
        headers = _common(digest, etag)
        headers.append(("Content-Type", f"multipart/byteranges; boundary={boundary}"))
        return Response(206, headers, body)


def _parse(reference: str) -> Digest:
    # The Go server's clients ask for `/blobs/<hex>`.
    bare = ":" not in reference and len(reference) == HEX_LENGTH["sha256"]
    return Digest.parse(f"sha256:{reference}" if bare else reference)


def _known(found: Found | None) -> Found:
    if found is None:
        raise RegistryError(Code.BLOB_UNKNOWN)
    return found


def _is_conditional(request: Request) -> bool:
    return "range" in request.headers or "if-none-match" in request.headers


def _content_range(span: ranges.Span, size: int) -> str:
    return f"bytes {span[0]}-{span[1] - 1}/{size}"


def _spans(request: Request, etag: str, size: int) -> list[ranges.Span] | None:
    try:
        return ranges.wanted(request.headers, etag, size)
    except ranges.Unsatisfiable:
        raise RegistryError(
            Code.SIZE_INVALID,
            f"no byte of the range lies within the blob's {size}",
            status=416,
            headers=(("Content-Range", f"bytes */{size}"), ("Accept-Ranges", "bytes")),
        ) from None


def _common(digest: Digest, etag: str) -> list[tuple[str, str]]:
    return [
        ("Docker-Content-Digest", str(digest)),
        ("ETag", etag),
        ("Accept-Ranges", "bytes"),
        # What a digest names never changes; who may read it does.
        ("Cache-Control", "private, max-age=31536000, immutable"),
    ]


def _whole(digest: Digest, etag: str, body: BlobStream | HeadBody) -> Response:
    headers = _common(digest, etag)
    headers.append(("Content-Type", _TYPE))
    return Response(200, headers, body)
