"""What is answered 201 or 202 because it was found, over a directory whose fsync failed before."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from epoch.store.directory.store import DirectoryStore
from tests.tools.client import Answer, digest_of, put_blob, request
from tests.tools.disk import Disk
from tests.tools.running import PART, Running, serving
from tests.tools.sessions import Session

DATA = b"a layer"
LARGE = random.Random(7).randbytes(PART + 1000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def server(disk: Disk, root: Path) -> AsyncIterator[Running]:
    store = DirectoryStore(root)
    await store.check()
    async with serving(store) as running:
        yield running


def blob(data: bytes) -> str:
    return f"blobs/sha256/{digest_of(data).removeprefix('sha256:')}"


async def leave_visible(server: Running, disk: Disk, root: Path, data: bytes) -> None:
    """Push a blob whose folder cannot be synced: everybody sees it, the disk does not have it."""
    disk.fails = lambda path: path == str(root / "blobs" / "sha256")
    assert (await put_blob(server.port, data)).refusal == (503, "UNAVAILABLE")
    disk.fails = lambda _: False
    assert await server.store.head(blob(data)) is not None
    assert not disk.holds(root, blob(data))


async def put_manifest(
    server: Running, manifest: dict[str, object], reference: str, name: str = "a/b"
) -> Answer:
    media_type = f"Content-Type: {manifest['mediaType']}"
    target = f"/v2/{name}/manifests/{reference}"
    return await request(server.port, "PUT", target, json.dumps(manifest).encode(), media_type)


def image(*layers: bytes) -> dict[str, object]:
    def descriptor(data: bytes) -> dict[str, object]:
        return {"mediaType": "application/x", "digest": digest_of(data), "size": len(data)}

    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(layers[0]),
        "layers": [descriptor(data) for data in layers],
    }


@pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "in-parts"])
async def test_a_push_again(server: Running, disk: Disk, root: Path, data: bytes) -> None:
    await leave_visible(server, disk, root, data)
    assert (await put_blob(server.port, data)).status == 201
    assert disk.holds(root, blob(data))


@pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "in-parts"])
async def test_the_end_of_a_session_again(
    server: Running, disk: Disk, root: Path, data: bytes
) -> None:
    session = await Session.begin(server.port)
    assert (await session.patch(data)).status == 202
    disk.fails = lambda path: path == str(root / "blobs" / "sha256")
    assert (await session.close(digest_of(data))).refusal == (503, "UNAVAILABLE")
    disk.fails = lambda _: False
    assert not disk.holds(root, blob(data))
    assert (await session.close(digest_of(data))).status == 201
    assert disk.holds(root, blob(data))


async def test_a_session_that_brings_what_is_there(server: Running, disk: Disk, root: Path) -> None:
    await leave_visible(server, disk, root, DATA)
    session = await Session.begin(server.port)
    assert (await session.close(digest_of(DATA), DATA)).status == 201
    assert disk.holds(root, blob(DATA))


async def test_a_mount(server: Running, disk: Disk, root: Path) -> None:
    await leave_visible(server, disk, root, DATA)
    target = f"/v2/c/d/blobs/uploads/?mount={digest_of(DATA)}&from=a/b"
    assert (await request(server.port, "POST", target, b"")).status == 201
    assert disk.holds(root, blob(DATA))


async def test_a_manifest_of_what_is_there(server: Running, disk: Disk, root: Path) -> None:
    await leave_visible(server, disk, root, DATA)
    before = len(disk.synced)
    manifest = image(DATA, DATA)
    assert (await put_manifest(server, manifest, "v1")).status == 201
    assert disk.holds(root, blob(DATA))
    assert disk.holds(root, "manifests/a/b/v1.json")
    assert disk.holds(root, "_catalog/a/b/_")
    # One sync for all blobs.
    assert disk.synced[before:].count(str(root / "blobs" / "sha256")) == 1


async def test_a_repository_whose_marker_is_there(server: Running, disk: Disk, root: Path) -> None:
    """Without it, the catalog would miss the repository for ever."""
    assert (await put_blob(server.port, DATA)).status == 201
    disk.fails = lambda path: path == str(root / "_catalog" / "a" / "b")
    assert (await put_manifest(server, image(DATA), "v1")).status == 503
    disk.fails = lambda _: False
    assert not disk.holds(root, "_catalog/a/b/_")
    assert (await put_manifest(server, image(DATA), "v1")).status == 201
    assert disk.holds(root, "_catalog/a/b/_")


async def test_the_parts_that_a_client_need_not_send_again(
    server: Running, disk: Disk, root: Path
) -> None:
    """A power cut after the 202 left holes where they were, and the digest was not read again."""
    session = await Session.begin(server.port)
    assert (await session.patch(LARGE)).status == 202
    (path,) = (root / "_multipart").rglob("data/*")
    assert disk.holds(root, str(path.relative_to(root)))
    assert (await session.patch(LARGE)).status == 202
    assert disk.holds(root, str(path.relative_to(root)))
    assert (await session.close(digest_of(LARGE + LARGE))).status == 201
    assert disk.holds(root, blob(LARGE + LARGE))


async def test_a_generation_that_cannot_be_synced(server: Running, disk: Disk, root: Path) -> None:
    """The request finds that its own generation is there, and must not take that for stored."""
    session = await Session.begin(server.port)
    assert (await session.patch(DATA)).status == 202
    disk.fails = lambda path: path.endswith("/state")
    # 416 says where the upload stands; the client asks or goes on from there.
    assert (await session.patch(DATA)).status == 416
    disk.fails = lambda _: False
    assert await session.offset() == 2 * len(DATA)
    assert (await session.close(digest_of(DATA + DATA))).status == 201
    assert disk.holds(root, blob(DATA + DATA))
