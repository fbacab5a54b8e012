"""A list that lies: what is missing on it would be collected as garbage, or be taken as never
pushed."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from urllib.parse import quote_plus

import pytest

from epoch.config import S3Settings
from epoch.store.base import Multipart, ObjectInfo, StoreError
from epoch.store.s3.signing import Signer, base_url
from epoch.store.s3.store import S3Store
from epoch.store.s3.transport import HttpSession
from tests.contract.scripts import ISO_DATE, ONCE, first, saying, stubbed
from tests.contract.stub import Call, error_body

NOT_S3 = "not that of an S3 store"


def objects_page(*keys: str, more: str = "") -> bytes:
    """A page of a list of objects, none of whose fields says how many there are."""
    items = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>{ISO_DATE}</LastModified>"
        "</Contents>"
        for key in keys
    )
    return f"<ListBucketResult>{more}{items}</ListBucketResult>".encode()


def uploads_page(*keys: str, more: str = "") -> bytes:
    items = "".join(
        f"<Upload><Key>{key}</Key><UploadId>u</UploadId><Initiated>{ISO_DATE}</Initiated></Upload>"
        for key in keys
    )
    return (f"<ListMultipartUploadsResult>{more}{items}</ListMultipartUploadsResult>").encode()


async def all_objects(store: S3Store, prefix: str = "") -> list[ObjectInfo]:
    return [info async for info in store.list(prefix)]


async def folder(store: S3Store, prefix: str = "") -> list[ObjectInfo]:
    return [info async for info in store.list_folder(prefix)]


async def names(store: S3Store, prefix: str = "") -> list[str]:
    return [*await store.names(prefix)]


async def all_uploads(store: S3Store, prefix: str = "") -> list[Multipart]:
    return [upload async for upload, _ in store.list_multiparts(prefix)]


OF_OBJECTS: list[Callable[[S3Store], Awaitable[list[object]]]] = [all_objects, folder, names]  # type: ignore[list-item]

LIES = {
    "one is missing": objects_page("p/a", more="<KeyCount>2</KeyCount>"),
    "one too many": objects_page("p/a", "p/b", more="<KeyCount>1</KeyCount>"),
    "none of them": objects_page(more="<KeyCount>1</KeyCount>"),
    "no number": objects_page("p/a", more="<KeyCount>one</KeyCount>"),
    "of another prefix": objects_page(more="<Prefix>p/other</Prefix>"),
    "of no prefix": objects_page(more="<Prefix></Prefix>"),
    "another prefix, encoded": objects_page(
        more="<EncodingType>url</EncodingType><Prefix>p%2Fother</Prefix>"
    ),
    "what was not asked for": objects_page("p/a", "elsewhere"),
    "it breaks off": objects_page("p/a", more="<IsTruncated>true</IsTruncated>"),
    "it may go on": objects_page("p/a", more="<NextContinuationToken>t</NextContinuationToken>"),
    "cut amid": objects_page("p/a", "p/b")[:-30],
    "empty": b"",
    "an error": error_body("InternalError"),
    "a page": b"<html></html>",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("ask", OF_OBJECTS)
async def test_a_list_whose_parts_do_not_fit(
    ask: Callable[[S3Store], Awaitable[list[object]]], lie: bytes
) -> None:
    async with stubbed(saying(200, lie), ONCE) as (store, _):
        with pytest.raises(StoreError, match=NOT_S3):
            await ask(store)
    async with stubbed(first(1, saying(200, lie))) as (store, stub):
        assert await ask(store) == []
        assert len(stub.calls) == 2


FITTING = {
    "all is told": "<Prefix>p/f+x/</Prefix><KeyCount>3</KeyCount><IsTruncated>false</IsTruncated>",
    "only keys are counted": "<Prefix>p/f+x/</Prefix><KeyCount>2</KeyCount>",
    "encoded": f"<EncodingType>url</EncodingType><Prefix>{quote_plus('p/f+x/')}</Prefix>",
    "keys alone are encoded": "<EncodingType>url</EncodingType><Prefix>p/f+x/</Prefix>",
    "nothing is told": "",
}


@pytest.mark.parametrize("more", FITTING.values(), ids=FITTING.keys())
async def test_a_list_may_leave_out_what_it_says_of_itself(more: str) -> None:
    keys = ["p/f+x/a", "p/f+x/b"]
    if "url" in more:
        keys = [quote_plus(key, safe="/") for key in keys]
    more += "<CommonPrefixes><Prefix>p/f+x/c/</Prefix></CommonPrefixes>"
    async with stubbed(saying(200, objects_page(*keys, more=more))) as (store, _):
        assert await names(store, "f+x/") == ["a", "b"]
        assert [info.key for info in await folder(store, "f+x/")] == ["f+x/a", "f+x/b"]


@pytest.mark.parametrize("ask", OF_OBJECTS)
@pytest.mark.parametrize("length", [1, 2])
async def test_a_list_that_goes_in_a_circle_ends(
    ask: Callable[[S3Store], Awaitable[list[object]]], length: int
) -> None:
    async def script(call: Call) -> None:
        at = int(call.query.get("continuation-token", -1))
        more = "<IsTruncated>true</IsTruncated>"
        more += f"<NextContinuationToken>{(at + 1) % length}</NextContinuationToken>"
        await call.answer(200, objects_page(f"p/{at}", more=more))

    async with stubbed(script, ONCE) as (store, _):
        with pytest.raises(StoreError, match="circle"):
            await ask(store)


@pytest.mark.parametrize(
    "item",
    [
        f"<Size>1</Size><LastModified>{ISO_DATE}</LastModified>",
        f"<Key>p/a</Key><Size>many</Size><LastModified>{ISO_DATE}</LastModified>",
        "<Key>p/a</Key><Size>1</Size><LastModified>yesterday</LastModified>",
        "<Key>p/a</Key>",
    ],
)
async def test_a_list_of_what_is_no_object(item: str) -> None:
    body = f"<ListBucketResult><Contents>{item}</Contents></ListBucketResult>".encode()
    async with stubbed(saying(200, body), ONCE) as (store, _):
        with pytest.raises(StoreError, match=NOT_S3):
            await all_objects(store)


UPLOAD_LIES = {
    "empty": b"",
    "an error": error_body("InternalError"),
    "an error with a namespace": b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>',
    "a page": b"<html></html>",
    "of another prefix": uploads_page(more="<Prefix>p/other</Prefix>"),
    "what was not asked for": uploads_page("elsewhere"),
    "it breaks off": uploads_page("p/a", more="<IsTruncated>true</IsTruncated>"),
    "it may go on": uploads_page("p/a", more="<NextKeyMarker>p/a</NextKeyMarker>"),
    "no id": uploads_page("p/a").replace(b"<UploadId>u</UploadId>", b""),
    "no date": uploads_page("p/a").replace(ISO_DATE.encode(), b"yesterday"),
    "cut amid": uploads_page("p/a")[:-30],
}


@pytest.mark.parametrize("lie", UPLOAD_LIES.values(), ids=UPLOAD_LIES.keys())
async def test_a_list_of_uploads_whose_parts_do_not_fit(lie: bytes) -> None:
    """Uploads that are on no list stay, and are paid for, for ever."""
    async with stubbed(saying(200, lie), ONCE) as (store, _):
        with pytest.raises(StoreError, match=NOT_S3):
            await all_uploads(store)
    async with stubbed(first(1, saying(200, lie))) as (store, _):
        assert await all_uploads(store) == []


async def test_a_list_of_uploads_that_goes_in_a_circle_ends() -> None:
    more = "<IsTruncated>true</IsTruncated><NextKeyMarker>p/a</NextKeyMarker>"
    async with stubbed(saying(200, uploads_page("p/a", more=more)), ONCE) as (store, _):
        with pytest.raises(StoreError, match="circle"):
            await all_uploads(store)


async def test_a_list_of_uploads_over_two_pages() -> None:
    async def script(call: Call) -> None:
        if call.query.get("key-marker") == "p/a" and call.query.get("upload-id-marker") == "u":
            await call.answer(200, uploads_page("p/b"))
            return
        more = "<IsTruncated>true</IsTruncated><NextKeyMarker>p/a</NextKeyMarker>"
        more += "<NextUploadIdMarker>u</NextUploadIdMarker>"
        await call.answer(200, uploads_page("p/a", more=more))

    async with stubbed(script) as (store, _):
        assert await all_uploads(store) == [Multipart("a", "u"), Multipart("b", "u")]


async def test_what_a_real_store_says_of_its_lists(s3_settings: S3Settings) -> None:
    """The checks above are about fields that it sends."""
    store = S3Store(s3_settings)
    session = HttpSession(None, None)
    signer = Signer(
        base_url(s3_settings), s3_settings.access_key, s3_settings.secret_key, s3_settings.region
    )
    try:
        for key in ("l/a", "l/b", "l/c/d", "l/e/f"):
            await store.put(key, b"x")
        query = {
            "list-type": "2",
            "prefix": f"{s3_settings.prefix}l/",
            "delimiter": "/",
            "encoding-type": "url",
        }
        url, headers = signer.sign("GET", "", query)
        body = (await session.request("GET", url, headers)).body.decode()
    finally:
        await session.close()
        await store.close()
    assert body.count("<Contents>") == 2
    assert body.count("<CommonPrefixes>") == 2
    assert re.search("<KeyCount>4</KeyCount>", body), body
    assert "<IsTruncated>false</IsTruncated>" in body
    assert (
        f"<Prefix>{s3_settings.prefix}l/</Prefix>" in body
        or quote_plus(f"{s3_settings.prefix}l/") in body
    )
