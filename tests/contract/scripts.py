"""What the scripted server answers, well or not, and the calls that are tried on it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

from epoch.store.base import Multipart, Part
from epoch.store.s3.calls import Patience
from epoch.store.s3.store import S3Store
from tests.contract.stub import Call, Script, Stub, serve

UPLOAD = Multipart("key", "upload-id")
FAST = Patience(stall=0.3, answer=0.6, slow_answer=0.6, check=0.6, repeat=0.3)
ONCE = Patience(repeat=0.0)
"""A call has one attempt."""
DATE = "Sat, 01 Nov 2025 10:00:00 GMT"
ISO_DATE = "2025-11-01T10:00:00.000Z"
COMPLETED = (
    b'<?xml version="1.0"?><CompleteMultipartUploadResult>'
    b"<ETag>&quot;e-2&quot;</ETag></CompleteMultipartUploadResult>"
)
COPIED = b'<CopyObjectResult><ETag>"e"</ETag></CopyObjectResult>'
OBJECT = b"0123456789"
"""What is at every key, until it is said otherwise."""


@contextlib.asynccontextmanager
async def stubbed(script: Script, patience: Patience = FAST) -> AsyncIterator[tuple[S3Store, Stub]]:
    """A store over a server that does what `script` says."""
    async with serve(script) as stub:
        store = S3Store(stub.settings, patience)
        try:
            yield store, stub
        finally:
            await store.close()


async def well(call: Call) -> None:
    """What a store answers when nothing is wrong."""
    body = await call.body()
    match call.operation:
        case "HeadObject" | "GetObject":
            await call.answer(200, OBJECT, ETag='"e"', Last_Modified=DATE)
        case "CompleteMultipartUpload":
            await call.answer(200, COMPLETED)
        case "CreateMultipartUpload":
            body = b"<InitiateMultipartUploadResult><UploadId>u</UploadId>"
            await call.answer(200, body + b"</InitiateMultipartUploadResult>")
        case "ListObjectsV2":
            await call.answer(200, b"<ListBucketResult></ListBucketResult>")
        case "ListMultipartUploads":
            body = b"<ListMultipartUploadsResult></ListMultipartUploadsResult>"
            await call.answer(200, body)
        case "CopyObject":
            await call.answer(200, COPIED)
        case "UploadPartCopy":
            await call.answer(200, b'<CopyPartResult><ETag>"c"</ETag></CopyPartResult>')
        case "ListParts":
            await call.error(404, "NoSuchUpload")
        case "DeleteObject" | "AbortMultipartUpload":
            await call.answer(204)
        case "PutObject":
            await call.answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
        case _:
            await call.answer(200, ETag='"e"')


def first(count: int, fault: Script) -> Script:
    """`fault` for the first `count` calls, all well after them."""

    async def script(call: Call) -> None:
        await (fault if call.number < count else well)(call)

    return script


def at(operation: str, fault: Script, count: int = 1_000_000) -> Script:
    """`fault` for the first `count` calls of that operation, all else well."""
    seen = 0

    async def script(call: Call) -> None:
        nonlocal seen
        seen += call.operation == operation
        await (fault if call.operation == operation and seen <= count else well)(call)

    return script


def answering(status: int, code: str) -> Script:
    """That error."""

    async def script(call: Call) -> None:
        await call.body()
        await call.error(status, code)

    return script


def saying(status: int, body: bytes = b"", **headers: str) -> Script:
    """That answer; `headers` have `_` for `-`."""

    async def script(call: Call) -> None:
        await call.body()
        await call.answer(status, body, **headers)

    return script


async def reset(call: Call) -> None:
    """The connection breaks before an answer."""
    call.reset()


async def reset_in_body(call: Call) -> None:
    """It breaks amid the request."""
    await call.body(min(100_000, int(call.headers.get("content-length", 0))))
    call.reset()


async def silent(call: Call) -> None:
    """There is no answer."""
    await call.body()
    await asyncio.Event().wait()


not_s3 = saying(200, b"<html>Welcome to nginx!")

CALLS: dict[str, Callable[[S3Store], Awaitable[object]]] = {
    "head": lambda store: store.head("key"),
    "get": lambda store: store.get("key", 10),
    "put": lambda store: store.put("key", b"data"),
    "delete": lambda store: store.delete("key"),
    "create": lambda store: store.create_multipart("key"),
    "part": lambda store: store.put_part(UPLOAD, 1, 0, b"data"),
    "complete": lambda store: store.complete_multipart(UPLOAD, [Part(1, 10, '"e"')]),
    "abort": lambda store: store.abort_multipart(UPLOAD),
    "list": lambda store: anext(store.list(""), None),
    "uploads": lambda store: anext(store.list_multiparts(""), None),
    "move": lambda store: store.move("key", "other", 10),
}
