"""A small image, pushed to any registry in the way that all of them know."""

import hashlib
import json
from collections.abc import Sequence
from http.client import HTTPConnection
from typing import Final
from urllib.parse import urlencode

_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_BLOBS: Final = (
    ("application/vnd.oci.image.config.v1+json", b'{"architecture":"amd64","os":"linux"}'),
    *(("application/vnd.oci.image.layer.v1.tar+gzip", b"layer %d" % n * 200) for n in range(4)),
)


def push_image(port: int, repository: str, tags: Sequence[str]) -> str:
    """Push an image of four layers under every one of `tags`; the digest of its manifest."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    descriptors = [
        {"mediaType": kind, "digest": _digest(data), "size": len(data)} for kind, data in _BLOBS
    ]
    for _, data in _BLOBS:
        location = _send(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"", "", 202)
        glue = "&" if "?" in location else "?"
        target = f"{location}{glue}{urlencode({'digest': _digest(data)})}"
        _send(connection, "PUT", target, data, "application/octet-stream", 201)
    config, *layers = descriptors
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": _TYPE, "config": config, "layers": layers}
    ).encode()
    for tag in tags:
        _send(connection, "PUT", f"/v2/{repository}/manifests/{tag}", manifest, _TYPE, 201)
    connection.close()
    return _digest(manifest)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _send(
    connection: HTTPConnection, method: str, target: str, data: bytes, kind: str, wanted: int
) -> str:
    """The Location of the answer."""
    connection.request(method, target, data, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != wanted:
        raise RuntimeError(f"{method} {target}: {answer.status} {text[:200]!r}")
    return answer.headers.get("Location", "")
