"""A manifest's JSON, read into the little that a registry needs of it; the bytes stay as they are.

OCI image-spec "Image Manifest", "Image Index", "Content Descriptors", and Docker's schema 2. What
is not named there is kept and not looked at.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from epoch.errors import Code, RegistryError
from epoch.fan_out import off_loop
from epoch.oci import media_types
from epoch.oci.digest import Digest
from epoch.oci.strict_json import parse_object

_MEDIA_TYPE: Final = re.compile(
    r"[A-Za-z0-9][\w!#$&^.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126}", re.ASCII
)
"""RFC 6838, section 4.2. It is sent as a header, so nothing else may pass."""

MAX_STORED: Final = 50 * 1024 * 1024
"""Bytes of a manifest that is read back: what the Go server takes, and may have stored."""

_MAX_SIZE: Final = 2**63 - 1
_WITHOUT_SCHEMA_VERSION: Final = media_types.STORED_AS_MANIFESTS - {media_types.DOCKER_SCHEMA1}
_ANNOUNCED: Final = media_types.STORED_AS_MANIFESTS
"""The values of Content-Type that say what a manifest is. Tools send any other one too: curl's
`application/x-www-form-urlencoded`, `application/json`."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a manifest says about itself.

    `blobs`, `children` and `untyped` are the digests that must be here before it, each once, in its
    order. Whether a descriptor stands for a blob or for a manifest follows from its media type and
    its field. Where the two disagree it may be either (`untyped`): the cache that BuildKit exports
    is an index of layers. `artifact_type` is "" where it has none.
    """

    media_type: str
    artifact_type: str
    annotations: dict[str, str]
    blobs: tuple[Digest, ...]
    children: tuple[Digest, ...]
    untyped: tuple[Digest, ...]
    subject: Digest | None

    def descriptor(self, digest: Digest, size: int) -> dict[str, Any]:
        """The descriptor of this manifest in a list of referrers (distribution-spec, "Listing
        Referrers")."""
        result: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(digest),
            "size": size,
        }
        if self.artifact_type:
            result["artifactType"] = self.artifact_type
        if self.annotations:
            result["annotations"] = self.annotations
        return result


async def read(data: bytes, content_type: str | None = None) -> Document:
    """`parse`, without holding the loop for more than a few milliseconds."""
    return await off_loop(len(data), lambda: parse(data, content_type))


async def read_media_type(data: bytes) -> str:
    """`media_type_of`, in the same way."""
    return await off_loop(len(data), lambda: media_type_of(data))


def parse(data: bytes, content_type: str | None = None) -> Document:
    """Read a manifest, or raise MANIFEST_INVALID.

    `content_type`: the header that it came with, whose parameters are ignored. Where it is one of
    a manifest it must agree with the document (image-spec: `mediaType` "MUST" match,
    CVE-2021-41190).
    """
    try:
        value = parse_object(data)
        media_type = _media_type(value)
        _check_content_type(value, media_type, content_type)
        return _read(value, media_type)
    except ValueError as error:
        raise RegistryError(Code.MANIFEST_INVALID, f"manifest invalid: {error}") from None


def media_type_of(data: bytes) -> str:
    """The Content-Type of stored bytes: what they say, else by their shape, else OCI's manifest.

    Never fails: the Go server stored any JSON, and this is what it would answer.
    """
    try:
        value = parse_object(data)
    except ValueError:
        return media_types.OCI_MANIFEST
    said = value.get("mediaType")
    if isinstance(said, str) and _MEDIA_TYPE.fullmatch(said):
        return said
    return media_types.OCI_INDEX if "manifests" in value else media_types.OCI_MANIFEST


def is_descriptor(value: Any) -> bool:
    """Whether `value` is a content descriptor."""
    try:
        _descriptor(value, "descriptor")
    except ValueError:
        return False
    return True


def _media_type(value: dict[str, Any]) -> str:
    said = value.get("mediaType")
    if said is not None and (not isinstance(said, str) or not _MEDIA_TYPE.fullmatch(said)):
        raise ValueError("mediaType is not a media type")
    version = value.get("schemaVersion")
    if version is None and said not in _WITHOUT_SCHEMA_VERSION:
        raise ValueError("schemaVersion is missing")
    if version is not None and (version != 2 or type(version) is not int):
        raise ValueError("schemaVersion must be 2")
    is_index, is_manifest = "manifests" in value, "config" in value or "layers" in value
    if is_index and is_manifest:
        raise ValueError("both an index (manifests) and an image (config, layers)")
    if said is None:
        if not is_index and not is_manifest:
            raise ValueError("neither mediaType nor manifests, config or layers")
        return media_types.OCI_INDEX if is_index else media_types.OCI_MANIFEST
    if said in media_types.INDEXES and is_manifest:
        raise ValueError("an index with config or layers")
    if said in media_types.MANIFESTS and is_index:
        raise ValueError("an image manifest with manifests")
    return said


def _check_content_type(value: dict[str, Any], media_type: str, header: str | None) -> None:
    announced = (header or "").partition(";")[0].strip().lower()
    if announced == media_type.lower() or announced not in _ANNOUNCED:
        return
    said = "mediaType" if value.get("mediaType") else "shape"
    raise ValueError(f"Content-Type does not agree with the manifest's {said}, {media_type}")


def _read(value: dict[str, Any], media_type: str) -> Document:
    needed = _Needed()
    config = _optional_object(value, "config")
    config_type = ""
    if config is not None:
        config_type = needed.add(config, "config")
    elif media_type in media_types.MANIFESTS:
        raise ValueError("config is missing")
    for field in ("layers", "blobs", "manifests"):  # `blobs`: of the withdrawn artifact manifest
        for entry in _array(value, field):
            needed.add(entry, field)
    described = _optional_object(value, "subject")
    return Document(
        media_type=media_type,
        artifact_type=_string(value, "artifactType") or config_type,
        annotations=_annotations(value),
        blobs=tuple(needed.blobs),
        children=tuple(needed.children),
        untyped=needed.only_untyped(),
        subject=None if described is None else _descriptor(described, "subject")[1],
    )


class _Needed:
    """What descriptors name, each digest once; a dict keeps the order."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, None] = {}
        self.children: dict[Digest, None] = {}
        self.untyped: dict[Digest, None] = {}

    def add(self, value: Any, field: str) -> str:
        """Check a descriptor and note its digest; returns its media type."""
        media_type, digest = _descriptor(value, field)
        is_child, is_manifest = field == "manifests", media_type in media_types.STORED_AS_MANIFESTS
        if media_type not in media_types.NON_DISTRIBUTABLE and not value.get("urls"):
            if is_child != is_manifest:
                self.untyped[digest] = None
            else:
                (self.children if is_child else self.blobs)[digest] = None
        return media_type

    def only_untyped(self) -> tuple[Digest, ...]:
        """Digests of which no descriptor says more."""
        known = self.blobs | self.children
        return tuple(digest for digest in self.untyped if digest not in known)


def _descriptor(value: Any, field: str) -> tuple[str, Digest]:
    """The media type and the digest of a descriptor."""
    if not isinstance(value, dict):
        raise ValueError(f"{field}: a descriptor that is not an object")
    media_type = _string(value, "mediaType")
    if not media_type:
        raise ValueError(f"{field}: a descriptor without mediaType")
    size = value.get("size")
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise ValueError(f"{field}: a descriptor without a valid size")
    try:
        return media_type, Digest.parse(_string(value, "digest"))
    except RegistryError as error:
        raise ValueError(f"{field}: {error.message}") from None


def _string(value: dict[str, Any], field: str) -> str:
    found = value.get(field)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise ValueError(f"{field} is not a string")
    return found


def _array(value: dict[str, Any], field: str) -> list[Any]:
    # null is what Go's encoder makes of an empty slice.
    found = value.get(field)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{field} is not an array")
    return found


def _optional_object(value: dict[str, Any], field: str) -> dict[str, Any] | None:
    found = value.get(field)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{field} is not an object")
    return found


def _annotations(value: dict[str, Any]) -> dict[str, str]:
    found = _optional_object(value, "annotations") or {}
    if not all(isinstance(text, str) for text in found.values()):
        raise ValueError("annotations: a value that is not a string")
    return found
