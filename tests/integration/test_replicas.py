"""Two servers over one bucket, as behind a balancer: what one does, the other knows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from epoch.config import S3Settings
from epoch.oci import media_types
from tests.tools.client import Answer, digest_of, get_blob, put_blob, request
from tests.tools.fixtures import StartServer
from tests.tools.server import Server

NAME = "team/app"
LAYER = b"layer " * 3000
CONFIG = b"{}"


@pytest.fixture
def place(s3_settings: S3Settings) -> S3Settings | Path:
    """A bucket: a directory is for the processes of one machine."""
    return s3_settings


@pytest.fixture
def replicas(start_server: StartServer) -> tuple[Server, Server]:
    return start_server(), start_server()


def image(**more: Any) -> bytes:
    def descriptor(content: bytes) -> dict[str, Any]:
        return {
            "mediaType": "application/octet-stream",
            "digest": digest_of(content),
            "size": len(content),
        }

    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": descriptor(CONFIG),
        "layers": [descriptor(LAYER)],
        **more,
    }
    return json.dumps(manifest).encode()


async def push(server: Server, data: bytes, reference: str) -> Answer:
    return await request(server.port, "PUT", f"/v2/{NAME}/manifests/{reference}", data)


async def ask(server: Server, path: str) -> Any:
    answer = await request(server.port, "GET", path)
    assert answer.status == 200, answer
    return json.loads(answer.body)


async def test_what_one_stores_the_other_serves(replicas: tuple[Server, Server]) -> None:
    one, other = replicas
    # Each has looked before there was anything, and may have remembered it.
    for server in replicas:
        assert (await ask(server, "/v2/_catalog"))["repositories"] == []
        assert (await request(server.port, "GET", f"/v2/{NAME}/tags/list")).status == 404
    assert (await put_blob(one.port, CONFIG)).status == 201
    assert (await put_blob(other.port, LAYER)).status == 201
    data = image()
    digest = digest_of(data)
    assert (await push(one, data, "v1")).status == 201
    for server in (other, one):
        pulled = await request(server.port, "GET", f"/v2/{NAME}/manifests/v1")
        assert (pulled.status, pulled.body) == (200, data)
        assert pulled.headers["docker-content-digest"] == digest
        assert (await get_blob(server.port, digest_of(LAYER))).body == LAYER
        assert (await ask(server, f"/v2/{NAME}/tags/list"))["tags"] == ["v1"]
        assert (await ask(server, "/v2/_catalog"))["repositories"] == [NAME]
        assert (await ask(server, f"/v2/{NAME}/referrers/{digest}"))["manifests"] == []
    subject = {"mediaType": media_types.OCI_MANIFEST, "digest": digest, "size": len(data)}
    referrer = image(subject=subject, artifactType="application/x-test")
    assert (await push(other, referrer, digest_of(referrer))).status == 201
    for server in replicas:
        (listed,) = (await ask(server, f"/v2/{NAME}/referrers/{digest}"))["manifests"]
        assert listed["digest"] == digest_of(referrer)
    again = image(annotations={"changed": "yes"})
    assert (await push(other, again, "v1")).status == 201
    assert (await request(one.port, "GET", f"/v2/{NAME}/manifests/v1")).body == again
    for gone in (digest_of(again), digest, digest_of(referrer)):
        path = f"/v2/{NAME}/manifests/{gone}"
        assert (await request(one.port, "DELETE", path)).status == 202
        assert (await request(other.port, "GET", path)).status == 404
    for server in (other, one):
        assert (await request(server.port, "GET", f"/v2/{NAME}/manifests/v1")).status == 404
        assert (await ask(server, "/v2/_catalog"))["repositories"] == []


async def test_an_upload_goes_on_with_either(replicas: tuple[Server, Server]) -> None:
    one, other = replicas
    begun = await request(one.port, "POST", f"/v2/{NAME}/blobs/uploads/", b"")
    location, half = begun.headers["location"], len(LAYER) // 2
    first = await request(other.port, "PATCH", location, LAYER[:half])
    assert (first.status, first.headers["range"]) == (202, f"0-{half - 1}")
    location = first.headers["location"]
    found = await request(one.port, "GET", location)
    assert (found.status, found.headers["range"]) == (204, f"0-{half - 1}")
    closing = f"{location}?digest={digest_of(LAYER)}"
    assert (await request(one.port, "PUT", closing, LAYER[half:])).status == 201
    # The answer was lost, and the client asks the other one.
    assert (await request(other.port, "PUT", closing, b"")).status == 201
    assert (await get_blob(other.port, digest_of(LAYER))).body == LAYER


async def test_both_agree_on_a_tag_as_soon_as_it_has_moved(replicas: tuple[Server, Server]) -> None:
    one, other = replicas
    for content in (CONFIG, LAYER):
        assert (await put_blob(one.port, content)).status == 201
    path = f"/v2/{NAME}/manifests/latest"
    for turn in range(6):
        mover = replicas[turn % 2]
        data = image(annotations={"turn": str(turn)})
        if turn == 4:  # the digest that a tag was made with moves along
            pushed = f"sha512:{hashlib.sha512(data).hexdigest()}"
            assert (await push(mover, data, f"{pushed}?tag=latest")).status == 201
        else:
            pushed = digest_of(data)
            assert (await push(mover, data, "latest")).status == 201
        for server in (other, one):
            for method, body in (("HEAD", b""), ("GET", data)):
                found = await request(server.port, method, path)
                assert (found.status, found.body) == (200, body)
                assert found.headers["docker-content-digest"] == pushed
    assert (await request(one.port, "DELETE", path)).status == 202
    for server in (other, one):
        for method in ("HEAD", "GET"):
            assert (await request(server.port, method, path)).status == 404
