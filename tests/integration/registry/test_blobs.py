"""Blobs on their way out, and their deletion."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from epoch.download.blobs import BlobDownloads
from epoch.download.stream import BlobStream
from epoch.errors import Code, RegistryError
from epoch.oci.digest import Digest
from epoch.store.base import ObjectInfo, StoreError

REPO = "team/app"
CONTENT = bytes(range(256)) * 8


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [CONTENT, b""], ids=["2048", "empty"])
async def test_a_blob_is_read_whole(house: Any, content: bytes, algorithm: str) -> None:
    digest = await house.push_blob(content, algorithm)
    for method in ("GET", "HEAD"):
        request = house.request(method)
        response = await house.blobs.get(request, REPO, str(digest))
        assert response.status == 200
        assert response.body.length == len(content)
        assert house.header(response, "Docker-Content-Digest") == str(digest)
        assert house.header(response, "ETag") == f'"{digest}"'
        assert house.header(response, "Accept-Ranges") == "bytes"
        assert house.header(response, "Content-Type") == "application/octet-stream"
        if method == "GET":
            assert await house.read(response) == content
        else:
            await response.body.aclose()


async def test_bare_hex_is_read_as_sha256(house: Any) -> None:
    digest = await house.push_blob(CONTENT)
    response = await house.blobs.get(house.request(), REPO, digest.hex)
    assert house.header(response, "Docker-Content-Digest") == str(digest)
    assert await house.read(response) == CONTENT


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, 2047),
        ("bytes=-500", 1548, 2047),
        ("bytes=2000-5000", 2000, 2047),
    ],
)
async def test_a_range(house: Any, header: str, first: int, last: int) -> None:
    digest = await house.push_blob(CONTENT)
    response = await house.blobs.get(house.request(range=header), REPO, str(digest))
    assert response.status == 206
    assert house.header(response, "Content-Range") == f"bytes {first}-{last}/2048"
    assert (response.body.offset, response.body.length) == (first, last + 1 - first)
    assert await house.read(response) == CONTENT[first : last + 1]


async def test_a_range_outside(house: Any) -> None:
    digest = await house.push_blob(CONTENT)
    for header in ("bytes=500-0", "bytes=5000-10000", "bytes=5000-,2048-2049"):
        with pytest.raises(RegistryError) as caught:
            await house.blobs.get(house.request(range=header), REPO, str(digest))
        assert caught.value.status == 416
        assert ("Content-Range", "bytes */2048") in caught.value.headers


async def test_conditions(house: Any) -> None:
    digest = await house.push_blob(CONTENT)

    async def ask(method: str = "GET", **headers: str) -> tuple[int, bytes]:
        response = await house.blobs.get(house.request(method, **headers), REPO, str(digest))
        if isinstance(response.body, bytes):
            return response.status, response.body
        if method == "HEAD":
            await response.body.aclose()
            return response.status, b""
        return response.status, await house.read(response)

    assert await ask(if_none_match=f'"{digest}"') == (304, b"")
    assert await ask("HEAD", if_none_match="*") == (304, b"")
    assert await ask(if_none_match='"other"') == (200, CONTENT)
    assert await ask(range="bytes=0-1", if_range=f'"{digest}"') == (206, CONTENT[:2])
    assert await ask(range="bytes=0-1", if_range='"other"') == (200, CONTENT)
    assert await ask(range="bytes=0-1,3-4", if_range='"other"') == (200, CONTENT)
    assert (await ask(range="bytes=0-1,3-4"))[0] == 206
    assert await ask(range="bytes=0-1,2-4") == (206, CONTENT[:5])
    assert await ask(range="bytes=0-1,3-4,x") == (200, CONTENT)
    assert await ask("HEAD", range="bytes=0-1,3-4") == (200, b"")
    assert await ask("HEAD", range="bytes=5000-") == (200, b"")


async def test_what_is_not_there(house: Any) -> None:
    absent = str(Digest.of(b"absent"))
    for method in ("GET", "HEAD"):
        for headers in ({}, {"range": "bytes=0-1"}):
            answer = house.blobs.get(house.request(method, **headers), REPO, absent)
            assert await house.refused(answer) == (404, Code.BLOB_UNKNOWN)
    assert await house.refused(house.blobs.delete(house.request("DELETE"), REPO, absent)) == (
        404,
        Code.BLOB_UNKNOWN,
    )
    for reference in ("sha256:bad", "x", "f" * 63, "F" * 64):
        answer = house.blobs.get(house.request(), REPO, reference)
        assert await house.refused(answer) == (400, Code.DIGEST_INVALID)
    answer = house.blobs.get(house.request(), "Bad", absent)
    assert await house.refused(answer) == (400, Code.NAME_INVALID)


async def test_a_blob_that_any_manifest_needs_is_not_deleted(house: Any) -> None:
    layer = await house.push_blob(b"layer")
    await house.push("other/app", await house.image(b"layer"), "v1")
    answer = house.blobs.delete(house.request("DELETE"), REPO, str(layer))
    assert await house.refused(answer) == (405, Code.UNSUPPORTED)
    await house.delete("other/app", (await house.list_tags("other/app"))[0][0])
    answer = house.blobs.delete(house.request("DELETE"), REPO, str(layer))
    assert await house.refused(answer) == (405, Code.UNSUPPORTED)
    await house.delete("other/app", Digest.of(await house.image(b"layer")))
    response = await house.blobs.delete(house.request("DELETE"), REPO, str(layer))
    assert response.status == 202
    answer = house.blobs.get(house.request("HEAD"), REPO, str(layer))
    assert await house.refused(answer) == (404, Code.BLOB_UNKNOWN)


async def test_a_redirect_where_the_store_can_presign(house: Any) -> None:
    digest = await house.push_blob(CONTENT)
    blobs = BlobDownloads(house.store, house.blobs._search, house.membership.has, redirect=True)
    response = await blobs.get(house.request(), REPO, str(digest))
    if await house.store.presign("blobs/x", 60) is None:
        assert await house.read(response) == CONTENT
    else:
        assert response.status == 307
        assert digest.hex in (house.header(response, "Location") or "")
        assert house.header(response, "Cache-Control") == "no-store"
    head = await blobs.get(house.request("HEAD"), REPO, str(digest))
    assert head.status == 200
    with pytest.raises(RegistryError):
        await blobs.get(house.request(), REPO, str(Digest.of(b"absent")))


@pytest.mark.parametrize("lost", [1, 2048])
async def test_an_object_that_is_cut_short_ends_in_an_error(house: Any, lost: int) -> None:
    class Short:
        """A store's reader that ends early without an error, as a broken one would."""

        info = ObjectInfo("blobs/x", 2048, "", 0.0)

        def fileno(self) -> None:
            return None

        def take_socket(self) -> None:
            return None

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield CONTENT[: 2048 - lost]

    digest = await house.push_blob(CONTENT)
    context = house.store.open(f"blobs/sha256/{digest.hex}")
    await context.__aenter__()
    stream = BlobStream(house.store, context, Short(), 0, 2048)
    with pytest.raises(StoreError):
        async for _ in stream:
            pass
    await stream.aclose()


async def test_a_stream_may_be_left_half_way(house: Any) -> None:
    content = CONTENT * 1024
    digest = await house.push_blob(content)
    response = await house.blobs.get(house.request(), REPO, str(digest))
    received = 0
    chunks = aiter(response.body)
    async for chunk in chunks:
        received += len(chunk)
        break
    assert 0 < received < len(content)
    await response.body.aclose()
    # Nothing waits for the garbage collector: the iterator is at its end.
    assert [chunk async for chunk in chunks] == []
