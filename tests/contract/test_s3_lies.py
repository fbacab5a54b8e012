"""A success that is none: whatever says 200 need not be the store, nor have done what was asked."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from epoch.config import S3Settings
from epoch.store.base import Part, StoreError
from epoch.store.s3.store import S3Store
from tests.contract.recorder import record
from tests.contract.scripts import (
    COPIED,
    DATE,
    FAST,
    ONCE,
    UPLOAD,
    answering,
    at,
    first,
    reset,
    saying,
    stubbed,
    well,
)
from tests.contract.stub import Call, Script, error_body

SMALL = b"data"
LARGE = bytes(range(256)) * 1024
MD5 = f'"{hashlib.md5(SMALL).hexdigest()}"'
PAGE = b"<html>Please log in</html>"

NOT_STORED: dict[str, Script] = {
    "nothing": saying(200),
    "a page": saying(200, PAGE),
    "a page with an etag": saying(200, PAGE, ETag=MD5),
    "an error": saying(200, error_body("InternalError"), ETag=MD5),
    "an error that is final": saying(200, error_body("AccessDenied"), ETag=MD5),
    "an empty etag": saying(200, ETag=""),
}
"""Answers to a body that was sent."""

SENDS: dict[str, Callable[[S3Store], Awaitable[object]]] = {
    "put": lambda store: store.put("key", SMALL),
    "put_new": lambda store: store.put_new("key", SMALL),
    "put_part": lambda store: store.put_part(UPLOAD, 1, 0, SMALL),
}


def nowhere(script: Script) -> Script:
    """The same over an empty bucket."""

    async def empty(call: Call) -> None:
        if call.operation in ("HeadObject", "GetObject"):
            await call.error(404, "NoSuchKey")
        else:
            await script(call)

    return empty


# ---- what was sent ---------------------------------------------------------------------------


@pytest.mark.parametrize("answer", NOT_STORED.values(), ids=NOT_STORED.keys())
@pytest.mark.parametrize("name", SENDS)
async def test_what_is_not_said_to_be_stored_is_not(name: str, answer: Script) -> None:
    operation = "UploadPart" if name == "put_part" else "PutObject"
    async with stubbed(nowhere(at(operation, answer)), ONCE) as (store, _):
        with pytest.raises(StoreError, match=r"not that of an S3 store|\(200\)"):
            await SENDS[name](store)


@pytest.mark.parametrize("name", SENDS)
async def test_it_is_sent_again(name: str) -> None:
    operation = "UploadPart" if name == "put_part" else "PutObject"
    async with stubbed(nowhere(at(operation, saying(200, PAGE), 1))) as (store, stub):
        await SENDS[name](store)
    assert stub.operations().count(operation) >= 2


class Bucket:
    """A script that keeps what is put, but gives it the etag `etag`; `seen` changes what a HEAD
    shows of it."""

    def __init__(self, etag: str, seen: Callable[[bytes], tuple[bytes, str] | None]) -> None:
        self.etag, self.seen = etag, seen
        self.data: bytes | None = None

    async def __call__(self, call: Call) -> None:
        if call.operation == "PutObject":
            self.data = await call.body()
            await call.answer(200, ETag=self.etag)
        elif call.operation == "HeadObject":
            found = None if self.data is None else self.seen(self.data)
            if found is None:
                await call.error(404, "")
            else:
                await call.answer(200, found[0], ETag=found[1], Last_Modified=DATE)
        else:
            await well(call)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    "seen",
    [
        lambda _: None,
        lambda data: (data[:-1], '"opaque"'),
        lambda data: (data, '"another"'),
        lambda _: (b"", '"opaque"'),
    ],
    ids=["absent", "cut", "another", "empty"],
)
async def test_what_is_not_shown_is_not_stored(
    data: bytes, seen: Callable[[bytes], tuple[bytes, str] | None]
) -> None:
    """Where the etag is not the MD5 of the data, or where that would take long to compute."""
    for name in ("put", "put_new"):
        async with stubbed(Bucket('"opaque"', seen)) as (store, stub):
            with pytest.raises(StoreError, match="does not show it"):
                await getattr(store, name)("key", data)
        assert stub.operations().count("PutObject") >= 2


@pytest.mark.parametrize("shown", ['"opaque"', 'W/"opaque"', "opaque"])
async def test_what_is_shown_is_stored(shown: str) -> None:
    async with stubbed(Bucket('"opaque"', lambda data: (data, shown))) as (store, stub):
        await store.put("key", LARGE)
    assert stub.operations() == ["PutObject", "HeadObject"]


async def test_an_md5_is_proof_enough_for_a_small_one() -> None:
    async with stubbed(Bucket(MD5, lambda _: None)) as (store, stub):
        await store.put("key", SMALL)
    assert stub.operations() == ["PutObject"]


async def test_small_writes_cost_one_request(
    s3_server: S3Settings, s3_settings: S3Settings
) -> None:
    """Against a real store, whose etags are MD5s: markers, manifests, states of sessions."""

    async def methods(size: int) -> list[str]:
        recorder.heads.clear()
        await store.put(f"key-{size}", bytes(size))
        return [head.method for head in recorder.heads]

    async with record(s3_server.endpoint) as recorder:
        settings = replace(s3_server, prefix=s3_settings.prefix, endpoint=recorder.endpoint)
        store = S3Store(settings)
        for size in (0, 1, 4000, 64 * 1024):
            assert await methods(size) == ["PUT"], size
        for size in (64 * 1024 + 1, 1 << 20):
            assert await methods(size) == ["PUT", "HEAD"], size
        await store.put_new("state/1", b"x")  # which looks whether the store heeds the condition
        recorder.heads.clear()
        await store.put_new("state/2", b"x")
        assert [head.method for head in recorder.heads] == ["PUT"]
        await store.close()


# ---- completing ------------------------------------------------------------------------------

PARTS = [Part(1, 6, '"a"'), Part(2, 4, '"b"')]


@pytest.mark.parametrize("size", [None, 9, 0])
async def test_completed_is_what_is_shown(size: int | None) -> None:
    shown = saying(404) if size is None else saying(200, bytes(size), ETag="e", Last_Modified=DATE)
    async with stubbed(at("HeadObject", shown)) as (store, stub):
        with pytest.raises(StoreError, match="does not show it"):
            await store.complete_multipart(UPLOAD, PARTS)
    assert stub.operations().count("CompleteMultipartUpload") >= 2


async def test_completed_and_shown_a_moment_later() -> None:
    """A look that fails for a moment is no reason to complete again."""
    async with stubbed(at("HeadObject", answering(503, "SlowDown"), 1)) as (store, stub):
        await store.complete_multipart(UPLOAD, PARTS)
    assert stub.operations() == ["CompleteMultipartUpload", "HeadObject", "HeadObject"]


async def test_a_look_that_fails_is_not_taken_for_absence() -> None:
    """The upload is gone, as after an answer that was lost; whether the object is there is not
    known yet."""

    async def script(call: Call) -> None:
        await call.body()
        await call.error(*((503, "SlowDown") if call.method == "HEAD" else (404, "NoSuchUpload")))

    async with stubbed(script) as (store, _):
        with pytest.raises(StoreError, match="head key") as caught:
            await store.complete_multipart(UPLOAD, PARTS)
    assert caught.value.retry_after is not None


# ---- moving ----------------------------------------------------------------------------------

NOT_COPIED: dict[str, Script] = {
    "nothing": saying(200),
    "white space": saying(200, b"  \n"),
    "a page": saying(200, PAGE),
    "an error": saying(200, error_body("InternalError")),
    "an error with a namespace": saying(
        200, b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>X</Code></Error>'
    ),
    "no etag": saying(200, b"<CopyObjectResult></CopyObjectResult>"),
    "cut": saying(200, COPIED[:-20]),
}


@pytest.mark.parametrize("answer", NOT_COPIED.values(), ids=NOT_COPIED.keys())
async def test_the_source_stays_where_nothing_was_copied(answer: Script) -> None:
    async with stubbed(at("CopyObject", answer)) as (store, stub):
        with pytest.raises(StoreError, match=r"^move key to other: "):
            await store.move("key", "other", 10)
    assert "DeleteObject" not in stub.operations()
    assert stub.operations().count("CopyObject") >= 2
    async with stubbed(at("CopyObject", answer, 1)) as (store, stub):
        await store.move("key", "other", 10)
    assert stub.operations().count("CopyObject") == 2
    assert stub.operations()[-2:] == ["HeadObject", "DeleteObject"]


@pytest.mark.parametrize("size", [None, 9, 0])
async def test_the_source_stays_until_the_copy_is_shown(size: int | None) -> None:
    async def script(call: Call) -> None:
        if call.operation == "HeadObject" and call.path.endswith("/other"):
            if size is None:
                await call.error(404, "")
            else:
                await call.answer(200, bytes(size), ETag='"e"', Last_Modified=DATE)
        else:
            await well(call)

    async with stubbed(script) as (store, stub):
        with pytest.raises(StoreError, match=r"move key to other: .* does not show it"):
            await store.move("key", "other", 10)
    assert "DeleteObject" not in stub.operations()


@pytest.mark.parametrize(
    "answer",
    [saying(200), saying(200, PAGE), saying(200, b"<CopyPartResult></CopyPartResult>")],
    ids=["nothing", "a page", "no etag"],
)
async def test_the_source_stays_where_a_part_was_not_copied(answer: Script) -> None:
    async def script(call: Call) -> None:
        if call.operation == "CopyObject":
            await call.error(400, "EntityTooLarge")
        else:
            await at("UploadPartCopy", answer)(call)

    async with stubbed(script) as (store, stub):
        with pytest.raises(StoreError, match="not that of an S3 store: its body is not"):
            await store.move("key", "other", 10)
    assert "DeleteObject" not in stub.operations()
    assert "AbortMultipartUpload" in stub.operations()


async def test_a_source_that_is_gone_is_no_reason_to_believe_in_the_target() -> None:
    """The target may be there for another reason, and damaged: it must be as long."""

    async def script(call: Call) -> None:
        if call.path.endswith("/key"):
            await call.error(404, "")
        else:
            await well(call)

    async with stubbed(script) as (store, _):
        await store.move("key", "other", 10)
        with pytest.raises(StoreError, match="source does not exist"):
            await store.move("key", "other", 11)
        with pytest.raises(StoreError, match="has 10 bytes where 11"):
            await store.move("other", "key", 11)


# ---- deleting, aborting, beginning -----------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        saying(200, error_body("InternalError")),
        saying(200, error_body("AccessDenied")),
        saying(200, PAGE),
        saying(202),
    ],
    ids=["an error", "a final error", "a page", "accepted"],
)
async def test_deleted_is_what_is_said_to_be(answer: Script) -> None:
    async with stubbed(at("DeleteObject", answer), ONCE) as (store, _):
        with pytest.raises(StoreError, match="delete key"):
            await store.delete("key")
    async with stubbed(at("DeleteObject", saying(200, PAGE), 1)) as (store, stub):
        await store.delete("key")
    assert len(stub.calls) == 2


async def test_an_empty_200_deletes() -> None:
    async with stubbed(saying(200)) as (store, _):
        await store.delete("key")


async def test_an_upload_that_stays_is_not_aborted() -> None:
    """The caller must know: its parts are stored, and paid for."""
    async with stubbed(at("ListParts", saying(200, b"<ListPartsResult/>"))) as (store, stub):
        with pytest.raises(StoreError, match="still has the upload") as caught:
            await store.abort_multipart(UPLOAD)
    assert stub.operations().count("AbortMultipartUpload") == 4
    assert caught.value.retry_after is not None


async def test_an_abort_that_fails_does_not_hide_why_a_move_did() -> None:
    async def script(call: Call) -> None:
        if call.operation == "CopyObject":
            await call.error(400, "EntityTooLarge")
        elif call.operation in ("UploadPartCopy", "AbortMultipartUpload"):
            code = "QuotaExceeded" if call.method == "PUT" else "AccessDenied"
            await call.error(403, code)
        else:
            await well(call)

    async with stubbed(script) as (store, _):
        with pytest.raises(StoreError, match="QuotaExceeded"):
            await store.move("key", "other", 10)


@pytest.mark.parametrize("answer", [saying(200), saying(200, PAGE)], ids=["nothing", "a page"])
async def test_an_upload_has_an_id(answer: Script) -> None:
    async with stubbed(answer, ONCE) as (store, _):
        with pytest.raises(StoreError, match="not that of an S3 store"):
            await store.create_multipart("key")


# ---- reading ---------------------------------------------------------------------------------

NO_OBJECT = {
    "a page": saying(200, PAGE),
    "no etag": saying(200, b"0123456789", Last_Modified=DATE),
    "no date": saying(200, b"0123456789", ETag='"e"'),
    "a part of it": saying(206, b"0123456789", ETag='"e"', Last_Modified=DATE),
}


async def opened(store: S3Store) -> object:
    async with store.open("key") as reader:
        return reader


READS: dict[str, Callable[[S3Store], Awaitable[object]]] = {
    "head": lambda store: store.head("key"),
    "get": lambda store: store.get("key", 100),
    "fetch": lambda store: store.fetch("key", 100),
    "open": opened,
}


@pytest.mark.parametrize("answer", NO_OBJECT.values(), ids=NO_OBJECT.keys())
@pytest.mark.parametrize("name", READS)
async def test_what_is_no_object_is_not_read(name: str, answer: Script) -> None:
    """The start page of a proxy would be a secret, a state, a manifest."""
    async with stubbed(answer, ONCE) as (store, _):
        with pytest.raises(
            StoreError, match=r"not that of an S3 store: it(s status is 206| lacks)"
        ):
            await READS[name](store)
    async with stubbed(first(1, answer)) as (store, _):
        assert await READS[name](store)


@pytest.mark.parametrize("name", READS)
async def test_a_404_of_another_server_is_no_missing_object(name: str) -> None:
    """Nor is one of the store that misses the bucket."""
    for page in (PAGE, b"", error_body("NoSuchBucket")):
        async with stubbed(saying(404, page), FAST) as (store, _):
            with pytest.raises(StoreError):
                await READS[name](store)


@pytest.mark.parametrize("name", READS)
async def test_a_bucket_that_is_there_makes_a_404_believable(name: str) -> None:
    async def script(call: Call) -> None:
        if call.operation == "ListObjectsV2":
            await well(call)
        else:
            await call.answer(404)

    async with stubbed(script) as (store, stub):
        assert await READS[name](store) is None
    assert stub.operations()[-1] == "ListObjectsV2"


# ---- conditional writes ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", [answering(503, "SlowDown"), reset], ids=["503", "reset"])
async def test_a_probe_that_fails_says_nothing(fault: Script) -> None:
    """Whether the store heeds conditions is then found out by the next write."""
    stored: dict[str, bytes] = {}
    puts = 0

    async def script(call: Call) -> None:
        nonlocal puts
        body = await call.body()
        found = stored.get(call.path)
        if call.operation == "PutObject":
            puts += 1
            if puts == 2:
                await fault(call)
            elif found is not None:
                await call.error(412, "PreconditionFailed")
            else:
                stored[call.path] = body
                await call.answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
        elif call.operation != "ListObjectsV2" and found is None:
            await call.error(404, "NoSuchKey")
        elif found is not None:
            await call.answer(200, found, ETag="e", Last_Modified=DATE)
        else:
            await well(call)

    async with stubbed(script) as (store, stub):
        assert await store.put_new("a", b"1")
        assert await store.put_new("b", b"2")
        stub.calls.clear()
        assert await store.put_new("c", b"3")
        assert stub.operations() == ["PutObject"]  # it is known to heed them now
        assert await store.put_new("c", b"4") is False
