"""Images of our own making, and what is in the image that somebody hands back."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import random
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_CHUNK: Final = 1 << 20

TAG: Final = "image"
"""Its name within a layout."""

EMPTY: Final = "sha256:" + hashlib.sha256().hexdigest()
"""The digest of nothing."""


class Source(Protocol):
    """What bytes can be read from."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


Open = Callable[[str], AbstractContextManager[Source]]
"""Opens the blob of a digest."""


@dataclass(frozen=True, slots=True)
class Content:
    """What must not change on the way."""

    digest: str
    """Of the manifest; empty where it is not looked at."""

    config: str
    """The config's digest."""

    layers: tuple[str, ...]
    """The digests of the layers' bytes, uncompressed: a client may compress as it likes."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a folder that is an OCI image layout."""

    layout: Path
    content: Content
    blobs: tuple[str, ...]
    """The digests of config and layers."""

    def path(self, digest: str) -> Path:
        """The file of a blob or the manifest."""
        return blob_path(self.layout, digest)


def blob_path(layout: Path, digest: str) -> Path:
    """Where a layout keeps a blob."""
    return layout / "blobs" / Path(*digest.split(":"))


def make_image(layout: Path, *sizes: int, shared: Path | None = None) -> Image:
    """An image with a layer of each size: a tar of one random file; 0 is a layer of 0 bytes.

    `shared`: the layout of an image whose first layer becomes the first of this one.
    """
    blob_path(layout, EMPTY).parent.mkdir(parents=True)
    layers, diff_ids = [], []
    if shared is not None:
        other = _load(shared)
        descriptor = other["layers"][0]
        os.link(blob_path(shared, descriptor["digest"]), blob_path(layout, descriptor["digest"]))
        config = json.loads(blob_path(shared, other["config"]["digest"]).read_bytes())
        layers.append(descriptor)
        diff_ids.append(config["rootfs"]["diff_ids"][0])
    for size in sizes:
        descriptor, diff_id = _store_layer(layout, size)
        layers.append(descriptor)
        diff_ids.append(diff_id)
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["/nothing"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "test"} for _ in diff_ids],
    }
    config_descriptor = _store_json(layout, _CONFIG, config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config_descriptor,
        "layers": layers,
    }
    descriptor = _store_json(layout, MANIFEST, manifest)
    named = descriptor | {"annotations": {"org.opencontainers.image.ref.name": TAG}}
    _write(layout / "index.json", {"schemaVersion": 2, "manifests": [named]})
    _write(layout / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    config_digest = config_descriptor["digest"]
    return Image(
        layout,
        Content(descriptor["digest"], config_digest, tuple(diff_ids)),
        (config_digest, *dict.fromkeys(layer["digest"] for layer in layers)),
    )


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def _store_json(layout: Path, media_type: str, document: Any) -> dict[str, Any]:
    data = json.dumps(document).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob_path(layout, digest).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


class _Hashing(io.RawIOBase):
    """Writes on, and hashes what it writes."""

    def __init__(self, to: IO[bytes]) -> None:
        self._to = to
        self.hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.hash.update(data)
        return self._to.write(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self.hash.hexdigest()}"


class _Random(io.RawIOBase):
    """So many bytes that do not repeat and do not compress."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._random = random.SystemRandom()
        self._block = bytearray(os.urandom(_CHUNK))

    def read(self, size: int = -1, /) -> bytes:
        self._block[:16] = os.urandom(16)
        data = bytes(self._block[: min(size, self._left)])
        self._left -= len(data)
        return data


def _store_layer(layout: Path, size: int) -> tuple[dict[str, Any], str]:
    """The layer's descriptor, and the digest of its tar."""
    written = layout / "layer"
    with written.open("wb") as file:
        stored = plain = _Hashing(file)
        if size:
            # Not compressed, only wrapped: no time is lost, and no client compresses it again.
            wrapped = gzip.GzipFile("", "wb", 0, stored, mtime=0)
            plain = _Hashing(wrapped)  # type: ignore[arg-type]
            with wrapped, tarfile.open(fileobj=plain, mode="w|", bufsize=_CHUNK) as archive:
                entry = tarfile.TarInfo("data")
                entry.size = size
                archive.addfile(entry, _Random(size))
    written.rename(blob_path(layout, stored.digest))
    descriptor = {
        "mediaType": f"{_LAYER}+gzip" if size else _LAYER,
        "digest": stored.digest,
        "size": blob_path(layout, stored.digest).stat().st_size,
    }
    return descriptor, plain.digest


def docker_archive(image: Image, file: Path, name: str) -> None:
    """Write the image as `docker save` writes one, under that name."""
    config = image.content.config.removeprefix("sha256:") + ".json"
    manifest = json.loads(image.path(image.content.digest).read_bytes())
    layers = [layer["digest"] for layer in manifest["layers"]]
    names = [f"{number}/layer.tar" for number, _ in enumerate(layers)]
    listed = json.dumps([{"Config": config, "RepoTags": [name], "Layers": names}]).encode()
    with tarfile.open(file, "w") as archive:
        archive.add(image.path(image.content.config), config)
        for layer, path in zip(layers, names, strict=True):
            archive.add(image.path(layer), path)
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(listed)
        archive.addfile(entry, io.BytesIO(listed))


def _load(layout: Path) -> Any:
    """The manifest of a layout's one image."""
    (descriptor,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return json.loads(blob_path(layout, descriptor["digest"]).read_bytes())


def layout_content(layout: Path) -> Content:
    """What a layout's one image holds, by its bytes."""
    (descriptor,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return read_content(descriptor["digest"], lambda at: blob_path(layout, at).open("rb"))


def read_content(digest: str, open_blob: Open) -> Content:
    """Read a whole image; AssertionError where bytes are not what their digest says."""
    manifest = json.loads(b"".join(_verified(digest, open_blob)))
    config = manifest["config"]["digest"]
    b"".join(_verified(config, open_blob))
    layers = tuple(
        _plain_digest(_verified(layer["digest"], open_blob)) for layer in manifest["layers"]
    )
    return Content(digest, config, layers)


def _verified(digest: str, open_blob: Open) -> Iterator[bytes]:
    hashed = hashlib.sha256()
    with open_blob(digest) as source:
        while data := source.read(_CHUNK):
            hashed.update(data)
            yield data
    assert f"sha256:{hashed.hexdigest()}" == digest


def _plain_digest(chunks: Iterator[bytes]) -> str:
    """The digest of what is in a layer, compressed with gzip or not at all."""
    hashed = hashlib.sha256()
    inflate: Callable[[bytes], bytes] | None = None
    for data in chunks:
        if inflate is None:
            is_gzip = data.startswith(b"\x1f\x8b")
            inflate = zlib.decompressobj(31).decompress if is_gzip else bytes
        hashed.update(inflate(data))
    return f"sha256:{hashed.hexdigest()}"
