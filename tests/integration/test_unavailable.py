"""A store that fails: the operator gets the reason, the client gets none of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epoch.metrics import metrics
from epoch.store.base import Store, StoreError
from epoch.store.directory.store import DirectoryStore
from tests.tools.client import Client, digest_of, head, request
from tests.tools.failing import Failing
from tests.tools.running import Running, eventually, serving

DATA = b"some bytes"
DIGEST = digest_of(DATA)
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/x", "digest": DIGEST, "size": len(DATA)},
        "layers": [],
    }
).encode()

REQUESTS = [
    ("blob", "GET", f"/v2/a/b/blobs/{DIGEST}", None),
    ("blob", "HEAD", f"/v2/a/b/blobs/{DIGEST}", None),
    ("blob", "PUT", f"/v2/a/b/blobs/{DIGEST}", DATA),
    ("blob", "DELETE", f"/v2/a/b/blobs/{DIGEST}", None),
    ("uploads", "POST", "/v2/a/b/blobs/uploads/", b""),
    ("manifest", "GET", "/v2/a/b/manifests/1", None),
    ("manifest", "HEAD", "/v2/a/b/manifests/1", None),
    ("manifest", "PUT", "/v2/a/b/manifests/1", MANIFEST),
    ("manifest", "DELETE", "/v2/a/b/manifests/1", None),
    ("tags", "GET", "/v2/a/b/tags/list", None),
    ("referrers", "GET", f"/v2/a/b/referrers/{DIGEST}", None),
    ("catalog", "GET", "/v2/_catalog", None),
]


class Down(Failing):
    """Each failure has the same reason, as where the store is down."""

    reason = "http://10.0.0.1:9000/bucket: set EPOCH_S3_ENDPOINT"
    retry_after: float | None = 2.0

    def _strikes(self, name: str) -> bool:
        if super()._strikes(name):
            raise StoreError(self.reason, retry_after=self.retry_after)
        return False


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = DirectoryStore(tmp_path)
    await store.check()
    yield store
    await store.close()


@pytest.fixture
async def down(store: Store) -> Down:
    return Down(store)


@pytest.fixture
async def running_down(down: Down) -> AsyncIterator[Running]:
    async with serving(down.as_store, leaves=True) as running:
        for _, method, target, body in REQUESTS:
            if method == "PUT":
                assert (await request(running.port, method, target, body)).status == 201
        down.fail(1, for_good=True)
        yield running
        down.fail(0)


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    return [line for line in found if line.startswith("the store failed")]


@pytest.mark.parametrize(("endpoint", "method", "target", "body"), REQUESTS)
@pytest.mark.parametrize("retry_after", [2.0, None])
async def test_the_reason_is_in_the_log_and_only_there(
    running_down: Running,
    down: Down,
    caplog: pytest.LogCaptureFixture,
    endpoint: str,
    method: str,
    target: str,
    body: bytes | None,
    retry_after: float | None,
) -> None:
    down.retry_after = retry_after
    answer = await request(running_down.port, method, target, body)
    assert answer.status == 503
    assert answer.headers.get("retry-after") == (None if retry_after is None else "2")
    for word in (b"10.0.0.1", b"bucket", b"EPOCH", b"blobs/", b"manifests/"):
        assert word not in answer.body
    if method != "HEAD":
        assert answer.codes == ["UNAVAILABLE"]
    (line,) = failures(caplog)
    name = '""' if endpoint == "catalog" else "a/b"
    assert f"endpoint={endpoint} method={method} name={name} " in line
    assert down.reason in line


async def test_a_store_that_is_down_does_not_fill_the_log(
    running_down: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        async with Client(running_down.port) as client:
            for _ in range(50):
                assert (await client.request("GET", "/v2/a/b/tags/list")).status == 503

    loop = asyncio.get_running_loop()
    began, count = loop.time(), 0
    while loop.time() - began < 2.2:
        await asyncio.gather(*(ask() for _ in range(4)))
        count += 200
    lines = failures(caplog)
    assert 2 <= len(lines) <= 4 + (loop.time() - began)
    left_out = sum(int(found[1]) for line in lines if (found := re.search(r"left_out=(\d+)", line)))
    assert left_out + len(lines) >= count // 3


@pytest.mark.parametrize("by_us", [False, True], ids=["client-gone", "cut-at-the-end"])
async def test_a_request_that_was_cut_is_counted_as_it_is_logged(store: Store, by_us: bool) -> None:
    counted = metrics.requests
    cut, failed = ("blob", "PUT", 499), ("blob", "PUT", 500)
    before = counted.get(cut, 0), counted.get(failed, 0)
    data = bytes(1 << 20)
    async with serving(store) as running, Client(running.port) as client:
        await client.send(head("PUT", f"/v2/a/b/blobs/{digest_of(data)}", data) + data[:1000])
        await eventually(lambda: bool(running.service.tasks))
        if by_us:
            await running.service.close(0)
        else:
            client.reset()
        await eventually(lambda: counted.get(cut, 0) == before[0] + 1)
    assert counted.get(failed, 0) == before[1]
