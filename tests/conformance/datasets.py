"""The 20 data sets of the official conformance program, made anew for every test.

Source: opencontainers/distribution-spec, `conformance/testdata.go` and `run.go`, version `dev`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import secrets
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.conformance.client import digest_of
from tests.conformance.operations import IMAGE, INDEX, Repository

CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP: Final = f"{LAYER}+gzip"
NON_DISTRIBUTABLE: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
FIRST: Final = "application/vnd.example.oci.conformance.v1"
SECOND: Final = "application/vnd.example.oci.conformance.v2"
PLATFORMS: Final = ("amd64", "arm64")

Descriptor = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest to push. `tags`: sent as `?tag=`. `sent`: the bytes that are sent instead of
    those that the digest is of."""

    data: bytes
    media_type: str
    digest: str
    subject: str | None = None
    tags: tuple[str, ...] = ()
    sent: bytes | None = None


@dataclass(slots=True)
class DataSet:
    """Blobs, manifests in the order in which they are pushed, tags, and what refers to what."""

    algorithm: str = "sha256"
    private: bool = False
    """Whether no other data set has the same blobs, so that its manifests may be left behind."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    referrers: dict[str, list[Descriptor]] = field(default_factory=dict)

    # Blobs

    def blob(self, data: bytes, media_type: str, **more: Any) -> Descriptor:
        """Add a blob, and describe it."""
        digest = digest_of(data, self.algorithm)
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def layer(self, *, compressed: bool = True) -> Descriptor:
        """A layer with one small random file: about 175 bytes, or 2048 as plain tar."""
        text = secrets.token_hex(45).encode()
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            info = tarfile.TarInfo(f"file-{secrets.token_hex(4)}.txt")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        data = file.getvalue()[:2048]
        if not compressed:
            return self.blob(data, LAYER)
        return self.blob(gzip.compress(data), LAYER_GZIP)

    def config(self, layers: int = 2, architecture: str = "amd64", **more: Any) -> Descriptor:
        """A config. It holds nothing random, so that all data sets share it."""
        empty = digest_of(b"", self.algorithm)
        value = {
            "author": "OCI Conformance Test",
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [empty] * layers},
            **self._unlike(),
            **more,
        }
        return self.blob(json.dumps(value).encode(), CONFIG)

    # Manifests

    def manifest(self, media_type: str, value: dict[str, Any], tags: Sequence[str]) -> Descriptor:
        """Add a manifest, and describe it; what has a subject becomes one of its referrers."""
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, **value}).encode()
        digest = digest_of(data, self.algorithm)
        subject = value["subject"]["digest"] if "subject" in value else None
        self.manifests[digest] = Manifest(data, media_type, digest, subject, tuple(tags))
        self.tags |= dict.fromkeys(tags, digest)
        described: Descriptor = {"mediaType": media_type, "digest": digest, "size": len(data)}
        if subject is not None:
            artifact_type = value.get("artifactType") or value["config"]["mediaType"]
            entry = {**described, "artifactType": artifact_type}
            if "annotations" in value:
                entry["annotations"] = value["annotations"]
            self.referrers.setdefault(subject, []).append(entry)
        return described

    def image(
        self,
        layers: Sequence[Descriptor] | None = None,
        config: Descriptor | None = None,
        tags: Sequence[str] = (),
        **more: Any,
    ) -> Descriptor:
        """An image; of two random layers unless told otherwise."""
        if layers is None:
            layers = [self.layer(), self.layer()]
        config = config or self.config(len(layers))
        return self.manifest(IMAGE, {"config": config, "layers": layers, **more}, tags)

    def index(
        self,
        manifests: Sequence[Descriptor] | None = None,
        tags: Sequence[str] = (),
        child_tags: str = "",
        **more: Any,
    ) -> Descriptor:
        """An index; of two images unless told otherwise. `child_tags`: what the tags of these
        begin with."""
        if manifests is None:
            manifests = [
                {
                    **self.image(
                        config=self.config(architecture=architecture),
                        tags=[f"{child_tags}-{number}"] if child_tags else (),
                    ),
                    "platform": {"architecture": architecture, "os": "linux"},
                }
                for number, architecture in enumerate(PLATFORMS)
            ]
        return self.manifest(INDEX, {"manifests": manifests, **more}, tags)

    def artifact(
        self, artifact_type: str = FIRST, layer_type: str = FIRST, **more: Any
    ) -> Descriptor:
        """An artifact with one random layer."""
        layer = self.blob(secrets.token_bytes(2048), layer_type)
        value = {"artifactType": artifact_type, "config": self.nothing(), "layers": [layer]}
        return self.manifest(IMAGE, {**value, **more}, ())

    def nothing(self) -> Descriptor:
        """The empty JSON object."""
        return self.blob(json.dumps(self._unlike()).encode(), EMPTY)

    def _unlike(self) -> dict[str, str]:
        return {"org.example.unlike": secrets.token_hex(16)} if self.private else {}

    def tag(self, name: str, described: Descriptor) -> None:
        """A tag that is pushed by its name."""
        self.tags[name] = described["digest"]

    def pushed_by_name(self) -> Iterator[tuple[str, Manifest]]:
        """The tags that no `?tag=` has made."""
        for tag, digest in self.tags.items():
            manifest = self.manifests[digest]
            if tag not in manifest.tags:
                yield tag, manifest


def push(repository: Repository, data: DataSet) -> None:
    """Push all of it."""
    for blob in data.blobs.values():
        repository.post_put(blob)
    for manifest in data.manifests.values():
        repository.put_manifest(
            manifest.data, manifest.media_type, tags=manifest.tags, subject=manifest.subject
        )
    for tag, manifest in data.pushed_by_name():
        repository.put_manifest(
            manifest.data, manifest.media_type, tag=tag, subject=manifest.subject
        )


def push_image(repository: Repository, *tags: str, **more: Any) -> Manifest:
    """Push a small image with these tags."""
    data = DataSet(repository.algorithm, private=True)
    described = data.image([data.layer()], tags=tags, **more)
    push(repository, data)
    return data.manifests[described["digest"]]


def notes() -> dict[str, str]:
    """Annotations, one of them unlike all others."""
    unlike = f"org.example.{secrets.token_hex(13)}"
    return {"org.opencontainers.conformance": "hello conformance test", unlike: "true"}


def _image() -> DataSet:
    data = DataSet()
    data.tag("image", data.image())
    return data


def _image_uncompressed() -> DataSet:
    data = DataSet()
    layers = [data.layer(compressed=False), data.layer(compressed=False)]
    data.tag("image-uncompressed", data.image(layers))
    return data


def _large_manifest() -> DataSet:
    data = DataSet()
    annotations = {f"large-annotation-{number}": "A" * 10_000 for number in range(390)}
    data.tag("large-manifest", data.image(annotations=annotations))
    return data


def _index() -> DataSet:
    data = DataSet()
    data.tag("index", data.index())
    return data


def _nested_index() -> DataSet:
    data = DataSet()
    data.tag("index-of-index", data.index([data.index(), data.index()]))
    return data


def _empty_index() -> DataSet:
    data = DataSet()
    data.tag("index", data.index([]))
    return data


def _artifact() -> DataSet:
    data = DataSet()
    data.tag("artifact", data.artifact())
    return data


def _artifact_index() -> DataSet:
    data = DataSet()
    found = data.index([data.artifact(), data.artifact()], artifactType=FIRST)
    data.tag("artifact-index", found)
    return data


def _artifact_without_layers() -> DataSet:
    data = DataSet()
    nothing = data.nothing()
    found = data.image([nothing], config=nothing, artifactType=FIRST)
    data.tag("artifact-without-layers", found)
    return data


def _artifacts_with_subject() -> DataSet:
    data = DataSet()
    subject = data.image()
    data.tag("image", subject)
    data.image(subject=subject)
    first = data.artifact(subject=subject, annotations=notes())
    octets = "application/octet-stream"
    second = data.artifact(SECOND, octets, subject=subject, annotations=notes())
    data.tag("tagged-artifact1", first)
    data.tag("tagged-artifact2", second)
    return data


def _index_with_subject() -> DataSet:
    data = DataSet()
    subject = data.index()
    data.tag("index", subject)
    children = [data.artifact(subject=subject, annotations=notes()) for _ in range(2)]
    found = data.index(children, artifactType=FIRST, subject=subject, annotations=notes())
    data.tag("tagged-artifact", found)
    return data


def _missing_subject() -> DataSet:
    data = DataSet()
    subject = {"mediaType": IMAGE, "digest": digest_of(b"missing content"), "size": 123}
    data.tag("tagged-artifact", data.artifact(subject=subject, annotations=notes()))
    return data


def _data_field() -> DataSet:
    data = DataSet()

    def with_data(described: Descriptor) -> Descriptor:
        content = base64.b64encode(data.blobs[described["digest"]]).decode()
        return {**described, "data": content}

    layers = [with_data(data.layer()), with_data(data.layer())]
    data.tag("data-field", data.image(layers, with_data(data.config())))
    return data


def _non_distributable_layers() -> DataSet:
    data = DataSet()

    def elsewhere(media_type: str, size: int) -> Descriptor:
        digest = digest_of(secrets.token_bytes(32))
        url = f"https://store.example.com/blobs/sha256/{digest.removeprefix('sha256:')}"
        return {"mediaType": media_type, "digest": digest, "size": size, "urls": [url]}

    layers = [
        elsewhere(f"{NON_DISTRIBUTABLE}+gzip", 123456),
        elsewhere(NON_DISTRIBUTABLE, 12345),
        data.layer(),
    ]
    data.tag("non-distributable-image", data.image(layers))
    return data


def _custom_fields() -> DataSet:
    data = DataSet()

    def custom() -> dict[str, Any]:
        return {f"org.{secrets.token_hex(8)}": secrets.token_hex(16)}

    images = [
        {
            **data.image(config=data.config(architecture=architecture, **custom()), **custom()),
            "platform": {"architecture": architecture, "os": "linux"},
        }
        for architecture in PLATFORMS
    ]
    data.tag("custom-fields", data.index(images, **custom()))
    return data


def _no_layers() -> DataSet:
    data = DataSet()
    data.tag("no-layers", data.image([]))
    return data


def _sha512() -> DataSet:
    data = DataSet("sha512")
    data.index()
    return data


def _tag_param(algorithm: str) -> DataSet:
    data, name = DataSet(algorithm), f"tag-param-{algorithm}"
    data.index(tags=[f"{name}-2", name], child_tags=name)
    return data


def _bad_digest_image() -> DataSet:
    data = DataSet()
    digest = data.image()["digest"]
    found = data.manifests[digest]
    data.manifests[digest] = Manifest(found.data, IMAGE, digest, sent=found.data + b"  ")
    return data


DATA_SETS: Final[dict[str, tuple[Callable[[], DataSet], int]]] = {
    "image": (_image, 26),
    "image-uncompressed": (_image_uncompressed, 26),
    "large-manifest": (_large_manifest, 26),
    "index": (_index, 51),
    "nested-index": (_nested_index, 91),
    "empty-index": (_empty_index, 11),
    "artifact": (_artifact, 21),
    "artifact-index": (_artifact_index, 36),
    "artifact-without-layers": (_artifact_without_layers, 16),
    "artifacts-with-subject": (_artifacts_with_subject, 77),
    "index-with-subject": (_index_with_subject, 87),
    "missing-subject": (_missing_subject, 22),
    "data-field": (_data_field, 26),
    "non-distributable-layers": (_non_distributable_layers, 21),
    "custom-fields": (_custom_fields, 51),
    "no-layers": (_no_layers, 16),
    "sha512": (_sha512, 46),
    "tag-param-sha256": (lambda: _tag_param("sha256"), 62),
    "tag-param-sha512": (lambda: _tag_param("sha512"), 62),
    "bad-digest-image": (_bad_digest_image, 19),
}
"""Each data set, and how many checks the program counts for it."""
