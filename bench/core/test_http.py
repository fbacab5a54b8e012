"""The core paths of `epoch.http`, each alone, in this process: the head's grammar and the route."""

from typing import Any

import pytest

from epoch.http import head, routes

LIMITS = head.Limits(head=32 << 10, target=8 << 10, fields=100)
DIGEST = "sha256:" + "0123456789abcdef" * 4
HEADS = {
    "push": (
        f"PUT /v2/library/model/blobs/{DIGEST} HTTP/1.1\r\nHost: registry.example\r\n"
        "User-Agent: Go-http-client/1.1\r\nContent-Length: 1073741824\r\n"
        "Content-Type: application/octet-stream\r\nAuthorization: Bearer abcdefghijklmnop\r\n"
        "Accept-Encoding: gzip\r\n\r\n"
    ).encode(),
    "manifest": (
        b"GET /v2/library/model/manifests/latest HTTP/1.1\r\nHost: registry.example\r\n"
        b"User-Agent: containerd/1.7\r\nAccept: application/vnd.oci.image.manifest.v1+json, "
        b"application/vnd.oci.image.index.v1+json, */*\r\nAccept-Encoding: gzip\r\n\r\n"
    ),
    "ping": b"GET /v2/ HTTP/1.1\r\nHost: registry.example\r\n\r\n",
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.benchmark(group="head parse")
def test_head_parse(benchmark: Any, kind: str) -> None:
    """From the bytes of a head to its judged fields."""
    assert benchmark(head.parse, HEADS[kind], LIMITS).keep_alive


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.benchmark(group="route match")
def test_route_match(benchmark: Any, kind: str) -> None:
    """From a path to its endpoint."""
    path = HEADS[kind].split(b" ")[1].decode()
    assert benchmark(routes.match, path) is not None
