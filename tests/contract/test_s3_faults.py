"""What an S3 store may do to us, and what the rest of Epoch gets to see of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from epoch._fastio import Pool
from epoch.config import S3Settings
from epoch.metrics import metrics
from epoch.store.base import Part, StoreError
from epoch.store.s3.calls import Patience
from epoch.store.s3.store import S3Store
from tests.contract.scripts import (
    CALLS,
    COMPLETED,
    DATE,
    FAST,
    ONCE,
    UPLOAD,
    answering,
    at,
    first,
    not_s3,
    reset,
    reset_in_body,
    silent,
    stubbed,
    well,
)
from tests.contract.stub import Call, Script, error_body, serve


def noise(size: int) -> bytearray:
    return bytearray(random.Random(size).randbytes(size))


def prove_free(buffer: bytearray) -> None:
    """BufferError while a view of it is out."""
    buffer.append(0)
    buffer.pop()


# ---- bodies ----------------------------------------------------------------------------------

TRANSIENT = {
    "503": answering(503, "ServiceUnavailable"),
    "500": answering(500, "InternalError"),
    "502 of a proxy": answering(502, ""),
    "SlowDown": answering(503, "SlowDown"),
    "429": answering(429, "TooManyRequests"),
    "400 RequestTimeout": answering(400, "RequestTimeout"),
    "reset": reset,
    "reset in the body": reset_in_body,
    "silence": silent,
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
async def test_part_is_sent_again(fault: Script) -> None:
    retries = metrics.part_retries
    data = noise(6_000_000)
    async with stubbed(first(1, fault)) as (store, stub):
        part = await store.put_part(UPLOAD, 3, 0, data)
        prove_free(data)
    assert part == Part(3, len(data), '"e"')
    assert len(stub.calls) == 2
    assert stub.calls[1].received == data
    assert data.startswith(stub.calls[0].received)
    assert metrics.part_retries == retries + 1


@pytest.mark.parametrize("read", [0, 1_000_000])
async def test_early_refusal_lets_go_of_the_buffer(read: int) -> None:
    """The answer comes while the body is still being sent; the old connection is read to its end
    only after the buffer has got new content."""
    data = noise(8 * 1024 * 1024)
    original = bytes(data)
    refilled = asyncio.Event()
    drained = asyncio.Event()

    async def early(call: Call) -> None:
        await call.body(read)
        await call.error(503, "SlowDown")
        await refilled.wait()
        with contextlib.suppress(ConnectionError):
            await call.body()
        drained.set()

    async with stubbed(first(1, early), Patience()) as (store, stub):
        await store.put_part(UPLOAD, 1, 0, data)
        prove_free(data)
        data[:] = bytes(len(data))
        refilled.set()
        await asyncio.wait_for(drained.wait(), 5)
    assert len(stub.calls[0].received) < len(original)
    assert original.startswith(stub.calls[0].received)
    assert stub.calls[1].received == original


async def test_cancelled_part_lets_go_of_the_buffer() -> None:
    data = noise(8 * 1024 * 1024)
    started = asyncio.Event()

    async def stuck(call: Call) -> None:
        started.set()
        await asyncio.Event().wait()

    async with stubbed(stuck, Patience()) as (store, _):
        task = asyncio.create_task(store.put_part(UPLOAD, 1, 0, data))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 1)
        prove_free(data)


async def test_part_buffer_is_free_again() -> None:
    pool = Pool(1 << 24)
    part = pool.lend(6_000_000, 6_000_000, 6_000_000)
    assert part is not None
    part.advance(io.BytesIO(noise(5_500_000)).readinto(part))
    async with stubbed(first(1, reset_in_body)) as (store, stub):
        await store.put_part(UPLOAD, 1, 0, part)
        assert part.views == 0
    part.release()
    assert pool.lent == 0
    assert stub.calls[1].received == noise(5_500_000)


async def test_peer_that_stops_reading() -> None:
    data = noise(16 * 1024 * 1024)

    async def stuck(call: Call) -> None:
        await call.body(1_000_000)
        await asyncio.Event().wait()

    begun = time.monotonic()
    async with stubbed(stuck) as (store, stub):
        with pytest.raises(StoreError, match="did not answer in time"):
            await store.put_part(UPLOAD, 1, 0, data)
        prove_free(data)
    assert len(stub.calls) >= 2
    assert time.monotonic() - begun < FAST.stall + FAST.repeat + FAST.stall + 1


async def test_slow_peer_is_no_stall() -> None:
    """The whole takes several times the limit; each piece of it does not."""
    data = noise(12 * 1024 * 1024)

    async def slow(call: Call) -> None:
        for count in range(0, len(data), len(data) // 16):
            await call.body(count)
            await asyncio.sleep(0.1)
        await well(call)

    async with stubbed(slow, replace(FAST, answer=5.0)) as (store, stub):
        begun = time.monotonic()
        await store.put_part(UPLOAD, 1, 0, data)
        assert time.monotonic() - begun > 2 * FAST.stall
    assert len(stub.calls) == 1
    assert stub.calls[0].received == data


# ---- attempts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", ["503", "reset", "silence"])
async def test_every_call_survives_a_fault(name: str, kind: str) -> None:
    async with stubbed(first(1, TRANSIENT[kind])) as (store, stub):
        await CALLS[name](store)
        assert len(stub.calls) >= 2


@pytest.mark.parametrize("name", ["head", "part"])
async def test_a_request_is_never_sent_twice_by_aiohttp(name: str) -> None:
    """It would repeat a request whose connection breaks, unseen by limits and budget of ours."""
    async with stubbed(reset, ONCE) as (store, stub):
        with pytest.raises(StoreError, match="connection to the store broke") as caught:
            await CALLS[name](store)
    assert len(stub.calls) == 1
    assert caught.value.retry_after is not None


@pytest.mark.parametrize("name", ["head", "get", "create", "list", "delete"])
async def test_only_slow_calls_are_waited_for_long(name: str) -> None:
    patience = replace(FAST, answer=0.05, slow_answer=60.0)
    async with stubbed(silent, patience) as (store, stub):
        begun = time.monotonic()
        with pytest.raises(StoreError, match="did not answer in time"):
            await CALLS[name](store)
    assert time.monotonic() - begun < patience.longest + 1
    assert len(stub.calls) >= 2


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (404, "NoSuchBucket", "EPOCH_S3_BUCKET"),
        (403, "InvalidAccessKeyId", "EPOCH_S3_ACCESS_KEY"),
        (403, "SignatureDoesNotMatch", "EPOCH_S3_SECRET_KEY"),
        (403, "AccessDenied", "policy"),
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "ExpiredToken", "expired"),
        (400, "AuthorizationHeaderMalformed", "EPOCH_S3_REGION"),
        (400, "EntityTooSmall", "minimum"),
        (400, "NobodyKnowsThis", "refused"),
        (501, "NotImplemented", "does not offer"),
    ],
)
async def test_permanent_failures_are_told_at_once(status: int, code: str, text: str) -> None:
    names = ("get", "put", "part", "complete", "list")
    async with stubbed(answering(status, code), Patience()) as (store, stub):
        for number, name in enumerate(names, 1):
            with pytest.raises(StoreError, match=text) as caught:
                await CALLS[name](store)
            assert len(stub.calls) == number, name
            assert code in str(caught.value)
            assert stub.settings.secret_key not in str(caught.value)
        with pytest.raises(StoreError, match=text):
            await store.check()


@pytest.mark.parametrize("name", ["list", "names", "check", "create", "complete"])
async def test_what_is_no_s3_store_is_told(name: str) -> None:
    """The console of a store, or the start page of a proxy, says 200 to everything."""
    async with stubbed(not_s3) as (store, _):
        with pytest.raises(StoreError, match=r"not that of an S3 store|the store is failing"):
            await {**CALLS, "names": lambda s: s.names(""), "check": S3Store.check}[name](store)


async def endless_chunks(call: Call) -> None:
    """Says neither how much will come nor when it ends."""
    status = 200 if call.path.endswith("/key") else 403
    head = f"HTTP/1.1 {status} Stub\r\nTransfer-Encoding: chunked\r\n\r\n"
    call.writer.write(head.encode())
    while True:
        call.writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await call.writer.drain()


async def test_answers_without_a_length_are_bounded() -> None:
    async with stubbed(endless_chunks, Patience()) as (store, _):
        with pytest.raises(StoreError, match="more than were expected"):
            await store.get("key", 100_000)
        with pytest.raises(StoreError, match="403"):
            await store.get("another", 100_000)


@pytest.mark.parametrize("date", ["", "yesterday", "Sat, 99 Nov 2025 10:00:00 GMT"])
async def test_a_date_that_is_none(date: str) -> None:
    async def script(call: Call) -> None:
        await call.answer(200, b"0123456789", ETag='"e"', Last_Modified=date)

    async with stubbed(script) as (store, _):
        with pytest.raises(StoreError, match="not that of an S3 store"):
            await store.head("key")
        with pytest.raises(StoreError, match="not that of an S3 store"):
            async with store.open("key"):
                pytest.fail("opened")


async def test_missing_bucket_is_not_a_missing_object() -> None:
    """The answer to HEAD has no body that could tell the two apart."""
    async with stubbed(answering(404, "NoSuchBucket")) as (store, _):
        with pytest.raises(StoreError, match="NoSuchBucket"):
            await store.head("key")
        with pytest.raises(StoreError, match="NoSuchBucket"):
            await store.delete("key")


async def test_delete_of_nothing_may_be_404() -> None:
    """Google Cloud Storage, where S3 answers 204."""
    async with stubbed(answering(404, "NoSuchKey")) as (store, _):
        await store.delete("key")


async def test_redirect_to_another_host_is_not_followed() -> None:
    async with serve(well) as other:
        location = other.settings.url + "/elsewhere"

        async def script(call: Call) -> None:
            await call.body()
            await call.answer(307, error_body("TemporaryRedirect"), Location=location)

        async with stubbed(script) as (store, stub):
            for name in ("get", "put", "list"):
                with pytest.raises(StoreError, match="another address"):
                    await CALLS[name](store)
            assert len(stub.calls) == 3
    assert other.calls == []


# ---- completing ------------------------------------------------------------------------------

PARTS = [Part(1, 6, '"a"'), Part(2, 4, '"b"')]


async def test_complete_with_an_error_in_a_200() -> None:
    async def embedded(call: Call) -> None:
        await call.body()
        if call.operation == "HeadObject":
            await call.error(404, "")
        else:
            await call.answer(200, b"   \n" + error_body("InternalError"))

    async with stubbed(embedded) as (store, stub):
        with pytest.raises(StoreError, match="InternalError"):
            await store.complete_multipart(UPLOAD, PARTS)
    assert stub.operations().count("CompleteMultipartUpload") >= 2


async def test_complete_with_an_error_in_a_200_once() -> None:
    async def embedded(call: Call) -> None:
        await call.body()
        if call.number == 0:
            await call.answer(200, error_body("InternalError"))
        elif call.number == 1:
            await call.error(404, "")
        else:
            await well(call)

    async with stubbed(embedded) as (store, stub):
        await store.complete_multipart(UPLOAD, PARTS)
    assert stub.operations().count("CompleteMultipartUpload") == 2


@pytest.mark.parametrize(
    "fault",
    [reset, silent, not_s3, answering(404, "NoSuchUpload")],
    ids=["reset", "silent", "not-s3", "no-upload"],
)
@pytest.mark.parametrize("size", [None, 9, 10])
async def test_lost_answer_to_complete(fault: Script, size: int | None) -> None:
    """Only an object of the right size proves that the upload was completed."""
    seen = 0

    async def script(call: Call) -> None:
        nonlocal seen
        if call.operation == "CompleteMultipartUpload":
            seen += 1
            await (fault if seen == 1 else answering(404, "NoSuchUpload"))(call)
        elif call.operation != "HeadObject":
            await well(call)
        elif size is None:
            await call.error(404, "NoSuchKey")
        else:
            await call.answer(200, bytes(size), ETag='"e"', Last_Modified=DATE)

    async with stubbed(script) as (store, _):
        if size == 10:
            await store.complete_multipart(UPLOAD, PARTS)
        else:
            with pytest.raises(StoreError, match="NoSuchUpload"):
                await store.complete_multipart(UPLOAD, PARTS)


async def test_complete_may_take_its_time() -> None:
    """White space drips for longer than any other answer may take."""

    async def drip(call: Call) -> None:
        await call.body()
        call.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            call.writer.write(b"1\r\n \r\n")
            await asyncio.sleep(0.1)
        call.writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(COMPLETED), COMPLETED))
        await call.writer.drain()

    script = at("CompleteMultipartUpload", drip)
    async with stubbed(script, replace(FAST, slow_answer=5.0)) as (store, stub):
        await store.complete_multipart(UPLOAD, PARTS)
    assert stub.operations() == ["CompleteMultipartUpload", "HeadObject"]
    assert Patience().slow_answer >= 600


# ---- aborting, moving ------------------------------------------------------------------------


async def test_abort_is_repeated_until_nothing_is_left() -> None:
    """A part that was under way is stored after the first abort."""
    aborts = 0

    async def script(call: Call) -> None:
        nonlocal aborts
        if call.operation == "AbortMultipartUpload":
            aborts += 1
            await call.answer(204)
        elif aborts < 2:
            await call.answer(200, b"<ListPartsResult></ListPartsResult>")
        else:
            await call.error(404, "NoSuchUpload")

    async with stubbed(script) as (store, _):
        await store.abort_multipart(UPLOAD)
    assert aborts == 2


@pytest.mark.parametrize("refusal", ["EntityTooLarge", "InvalidRequest"])
async def test_move_above_the_limit_of_one_copy(refusal: str) -> None:
    size = 1_200_000_000

    async def script(call: Call) -> None:
        match call.operation:
            case "HeadObject":
                # The length of an answer to HEAD may be any.
                call.writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: x\r\n"
                    f"Last-Modified: {DATE}\r\n\r\n".encode()
                )
            case "CopyObject":
                await call.error(400, refusal)
            case _:
                await well(call)

    async with stubbed(script) as (store, stub):
        await store.move("key", "other", size)
    copies = [call for call in stub.calls if call.operation == "UploadPartCopy"]
    copies.sort(key=lambda call: int(call.query["partNumber"]))
    spans = [call.headers["x-amz-copy-source-range"].removeprefix("bytes=") for call in copies]
    bounds = [tuple(map(int, span.split("-"))) for span in spans]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == size - 1
    assert all(one[1] + 1 == two[0] for one, two in itertools.pairwise(bounds))
    assert stub.operations()[-3:] == ["CompleteMultipartUpload", "HeadObject", "DeleteObject"]


async def test_failed_move_leaves_no_upload_and_keeps_the_source() -> None:
    async def script(call: Call) -> None:
        if call.operation == "CopyObject":
            await call.error(400, "EntityTooLarge")
        elif call.operation == "UploadPartCopy":
            await call.error(403, "AccessDenied")
        else:
            await well(call)

    async with stubbed(script) as (store, stub):
        with pytest.raises(StoreError, match="AccessDenied"):
            await store.move("key", "other", 10)
    assert "AbortMultipartUpload" in stub.operations()
    assert "DeleteObject" not in stub.operations()


# ---- reading ---------------------------------------------------------------------------------


async def cut_short(call: Call) -> None:
    call.writer.write(
        f"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: x\r\nLast-Modified: {DATE}\r\n\r\n"
        "only this".encode()
    )
    await call.writer.drain()
    call.writer.close()


async def stalled(call: Call) -> None:
    call.writer.write(
        f"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: x\r\nLast-Modified: {DATE}\r\n\r\n"
        "only this".encode()
    )
    await asyncio.Event().wait()


@pytest.mark.parametrize("fault", [cut_short, stalled])
async def test_short_body_is_never_a_clean_end(fault: Script) -> None:
    async with stubbed(fault) as (store, _):
        async with store.open("key") as reader:
            assert reader is not None
            chunks = aiter(reader)
            assert await anext(chunks) == b"only this"
            with pytest.raises(StoreError, match="read key"):
                await anext(chunks)
        with pytest.raises(StoreError, match="get key"):
            await store.get("key", 100)


async def test_get_reads_again_after_a_short_body() -> None:
    async with stubbed(first(1, cut_short)) as (store, _):
        assert await store.get("key", 100) == b"0123456789"


@pytest.mark.parametrize(
    "content_range", ["bytes 0-9/100", "bytes 5-9/", "bytes 5-9/*", "", "bytes 5-7/8"]
)
async def test_another_range_is_refused(content_range: str) -> None:
    async def script(call: Call) -> None:
        await call.answer(
            206, b"56789", ETag='"e"', Last_Modified=DATE, Content_Range=content_range
        )

    async with stubbed(script) as (store, _):
        with pytest.raises(StoreError, match="another range"):
            async with store.open("key", 5, 10):
                pytest.fail("opened")


async def test_range_that_is_ignored_is_refused() -> None:
    async with stubbed(well) as (store, _):
        with pytest.raises(StoreError, match="another range"):
            async with store.open("key", 5, 10):
                pytest.fail("opened")


async def test_reader_left_early_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def endless(call: Call) -> None:
        call.writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\nETag: x\r\n"
            f"Last-Modified: {DATE}\r\n\r\n".encode()
        )
        try:
            while True:
                call.writer.write(bytes(1 << 20))
                await call.writer.drain()
        finally:
            closed.set()

    async with stubbed(endless) as (store, _):
        async with store.open("key") as reader:
            assert reader is not None
            async for chunk in reader:
                assert chunk
                break
        await asyncio.wait_for(closed.wait(), 2)


# ---- an endpoint that is none ----------------------------------------------------------------


async def check_fails(settings: S3Settings, text: str, patience: Patience = FAST) -> None:
    store = S3Store(settings, patience)
    begun = time.monotonic()
    try:
        with pytest.raises(StoreError, match=text) as caught:
            await store.check()
    finally:
        await store.close()
    assert time.monotonic() - begun < 10
    assert "\n" not in str(caught.value)
    assert settings.secret_key not in str(caught.value)


async def test_check_of_a_silent_endpoint() -> None:
    async with serve(silent) as stub:
        await check_fails(stub.settings, "did not answer in time")
    assert Patience().check <= 10


async def test_check_of_a_refusing_endpoint() -> None:
    async with serve(well) as stub:
        settings = stub.settings
    await check_fails(settings, "cannot connect")


async def test_check_of_no_such_host() -> None:
    settings = S3Settings("no-such-host.invalid", "a", "stub-secret-5f2e", "b")
    await check_fails(settings, "host name|cannot connect", Patience())


@contextlib.asynccontextmanager
async def garbling(answer: bytes) -> AsyncIterator[str]:
    """A server that reads something, says `answer` and hangs up: its `host:port`."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_check_of_plain_http_by_tls() -> None:
    async with garbling(b"HTTP/1.1 400 Bad Request\r\n\r\n") as endpoint:
        settings = S3Settings(endpoint, "a", "stub-secret-5f2e", "b", secure=True)
        await check_fails(settings, "EPOCH_S3_SECURE")


async def test_check_of_another_protocol() -> None:
    async with garbling(b"SSH-2.0-OpenSSH_9.2\r\n") as endpoint:
        settings = S3Settings(endpoint, "a", "stub-secret-5f2e", "b", secure=False)
        await check_fails(settings, "not that of an S3 store")
