"""Reading manifests that not_in_repository wrote."""

import json
import time
from typing import Any

import pytest

from epoch.errors import Code, RegistryError
from epoch.fan_out import MAX_ON_LOOP
from epoch.oci import document, media_types
from epoch.oci.digest import Digest
from epoch.oci.strict_json import parse_object

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MIB = 1024 * 1024


def descriptor(content: bytes, media_type: str = LAYER_TYPE, **more: Any) -> dict[str, Any]:
    digest = str(Digest.of(content))
    return {"mediaType": media_type, "digest": digest, "size": len(content), **more}


def image(**more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": descriptor(b"{}", CONFIG_TYPE),
        "layers": [descriptor(b"layer")],
        **more,
    }


def index(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [], **more}


def parse(value: Any, content_type: str | None = None) -> document.Document:
    return document.parse(json.dumps(value).encode(), content_type)


def test_an_image_needs_its_config_and_layers_once_each() -> None:
    layer = descriptor(b"layer")
    found = parse(image(layers=[layer, layer, descriptor(b"other")]))
    assert found.media_type == media_types.OCI_MANIFEST
    assert found.blobs == (Digest.of(b"{}"), Digest.of(b"layer"), Digest.of(b"other"))
    assert found.children == ()
    assert found.subject is None
    assert found.artifact_type == CONFIG_TYPE


def test_an_index_needs_its_manifests_and_has_no_artifact_type_of_its_own() -> None:
    child = descriptor(b"child", media_types.OCI_MANIFEST)
    found = parse(index(manifests=[child]))
    assert found.blobs == ()
    assert found.children == (Digest.of(b"child"),)
    assert found.artifact_type == ""


BUILDKIT_CACHE = {
    "schemaVersion": 2,
    "mediaType": media_types.OCI_INDEX,
    "manifests": [
        descriptor(b"layer 1", annotations={"buildkit/createdat": "2024-05-01T12:00:00Z"}),
        descriptor(b"layer 2", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        descriptor(b"cache", "application/vnd.buildkit.cacheconfig.v0"),
    ],
}
"""The index of blobs that `--cache-to type=registry,image-manifest=false` pushes."""


def test_a_child_with_the_media_type_of_a_blob_may_be_either() -> None:
    found = parse(BUILDKIT_CACHE)
    assert found.untyped == tuple(map(Digest.of, (b"layer 1", b"layer 2", b"cache")))
    assert found.blobs == found.children == ()


def test_a_layer_with_the_media_type_of_a_manifest_may_be_either() -> None:
    nested = descriptor(b"nested", media_types.OCI_INDEX)
    found = parse(image(layers=[nested, descriptor(b"layer")]))
    assert found.untyped == (Digest.of(b"nested"),)
    assert found.blobs == (Digest.of(b"{}"), Digest.of(b"layer"))


def test_what_one_descriptor_says_for_sure_counts() -> None:
    both = [descriptor(b"child", media_types.OCI_MANIFEST), descriptor(b"child", "application/x")]
    found = parse(index(manifests=both))
    assert found.children == (Digest.of(b"child"),)
    assert found.untyped == ()


async def test_a_large_manifest_is_read_in_a_thread() -> None:
    layers = [descriptor(b"%d" % number) for number in range(1000)]
    data = json.dumps(image(layers=layers)).encode()
    assert len(data) > MAX_ON_LOOP
    assert await document.read(data) == document.parse(data)
    assert await document.read_media_type(data) == media_types.OCI_MANIFEST
    with pytest.raises(RegistryError):
        await document.read(data[:-1])


def test_what_is_fetched_elsewhere_is_not_needed_here() -> None:
    foreign = sorted(media_types.NON_DISTRIBUTABLE)[0]
    layers = [
        descriptor(b"a", foreign),
        descriptor(b"b", urls=["https://store.example.com/b"]),
        descriptor(b"c", data="Yw=="),
    ]
    assert parse(image(layers=layers)).blobs == (Digest.of(b"{}"), Digest.of(b"c"))


def test_the_subject_is_named_but_not_needed() -> None:
    found = parse(
        image(subject=descriptor(b"subject", media_types.OCI_MANIFEST, urls=["https://x"]))
    )
    assert found.subject == Digest.of(b"subject")
    assert Digest.of(b"subject") not in found.blobs + found.children


def test_descriptor_of_a_referrer() -> None:
    found = parse(image(artifactType="application/x", annotations={"a": "b"}))
    assert found.descriptor(Digest.of(b""), 7) == {
        "mediaType": media_types.OCI_MANIFEST,
        "digest": str(Digest.of(b"")),
        "size": 7,
        "artifactType": "application/x",
        "annotations": {"a": "b"},
    }
    assert set(parse(index()).descriptor(Digest.of(b""), 7)) == {"mediaType", "digest", "size"}


@pytest.mark.parametrize(
    ("value", "header"),
    [
        (image(), None),
        (image(), media_types.OCI_MANIFEST),
        (image(), f"{media_types.OCI_MANIFEST}; charset=utf-8"),
        (image(mediaType=media_types.DOCKER_MANIFEST), media_types.DOCKER_MANIFEST),
        ({"schemaVersion": 2, "manifests": None}, media_types.OCI_INDEX),
        (image(layers=None, mediaType=None), media_types.OCI_MANIFEST),
        ({"schemaVersion": 2, "mediaType": "application/vnd.example+json"}, None),
        ({"mediaType": media_types.OCI_INDEX}, media_types.OCI_INDEX),
        (image(**{"org.unknown": [1, {"x": None}]}), None),
        (image(), "application/json"),
        (image(), "application/octet-stream"),
        (index(mediaType=None), "application/x-www-form-urlencoded"),
        (image(), "no media type at all"),
    ],
)
def test_accepted(value: Any, header: str | None) -> None:
    assert parse(value, header).media_type


@pytest.mark.parametrize(
    ("value", "header"),
    [
        (image(), media_types.OCI_INDEX),
        (image(), media_types.DOCKER_SCHEMA1),
        (
            image(mediaType="application/vnd.example+json"),
            f"{media_types.OCI_MANIFEST}; charset=utf-8",
        ),
        (image(mediaType=None), media_types.DOCKER_MANIFEST),
        (index(mediaType=None), media_types.OCI_MANIFEST),
        (image(schemaVersion=1), None),
        (image(schemaVersion=True), None),
        (image(schemaVersion=2.0), None),
        (image(schemaVersion="2"), None),
        ({"mediaType": "application/vnd.example+json"}, None),
        ({"schemaVersion": 2}, None),
        ({}, None),
        (image(mediaType="a/b\r\nSet-Cookie: x"), None),
        (image(mediaType=7), None),
        (image(manifests=[]), None),
        (image(mediaType=None, manifests=[]), None),
        (index(layers=[]), None),
        (image(config=None), None),
        (image(config=[]), None),
        (image(layers={}), None),
        (image(layers=["x"]), None),
        (image(layers=[{"mediaType": "a/b", "size": 1}]), None),
        (image(layers=[{**descriptor(b""), "digest": "sha256:bad"}]), None),
        (image(layers=[{**descriptor(b""), "digest": 5}]), None),
        (image(layers=[{**descriptor(b""), "size": -1}]), None),
        (image(layers=[{**descriptor(b""), "size": True}]), None),
        (image(layers=[{**descriptor(b""), "size": 2**63}]), None),
        (image(layers=[{**descriptor(b""), "mediaType": ""}]), None),
        (image(subject={"digest": "x"}), None),
        (image(annotations={"a": 1}), None),
        (image(artifactType=1), None),
        ([], None),
        ("text", None),
        (None, None),
    ],
)
def test_refused(value: Any, header: str | None) -> None:
    with pytest.raises(RegistryError) as caught:
        parse(value, header)
    assert caught.value.code is Code.MANIFEST_INVALID
    assert caught.value.status == 400


BOMBS = {
    "brackets": b"[" * (4 * MIB),
    "objects": b'{"a":' * (4 * MIB // 5),
    "deep, closed": b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "empty arrays": b'{"a":[' + b"[]," * (4 * MIB // 3) + b"1]}",
    "small objects": b'{"a":[' + b'{"":0},' * 39_000 + b"1]}",
    "numbers": b'{"a":[' + b"1," * 199_000 + b"1]}",
    "one integer": b'{"a":' + b"9" * (4 * MIB - 10) + b"}",
    "integers": b'{"a":[' + (b"9" * 4299 + b",") * 900 + b"1]}",
    "duplicate keys": b'{"schemaVersion":2,"schemaVersion":2}',
    "duplicate keys within": b'{"a":{"b":1,"b":1}}',
    "surrogate": b'{"schemaVersion":2,"manifests":[],"a":"\\ud800"}',
    "surrogate as a key": b'{"schemaVersion":2,"manifests":[],"\\uDFff":1}',
    "nan": b'{"schemaVersion":2,"manifests":[],"a":NaN}',
    "infinity": b'{"schemaVersion":2,"manifests":[],"a":-Infinity}',
    "utf-16": '{"schemaVersion":2,"manifests":[]}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"schemaVersion":2,"manifests":[]}',
    "latin-1": b'{"schemaVersion":2,"manifests":[],"a":"\xe9"}',
    "nul": b'{"schemaVersion":2,"manifests":[]}\0',
    "control character": b'{"schemaVersion":2,"manifests":[],"a":"\n"}',
    "two documents": b'{"schemaVersion":2,"manifests":[]}{}',
    "nothing": b"",
}


@pytest.mark.timed
@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_refused_at_once(data: bytes) -> None:
    took = []
    for _ in range(3):
        start = time.thread_time()
        with pytest.raises(RegistryError) as caught:
            document.parse(data)
        took.append(time.thread_time() - start)
        assert caught.value.code is Code.MANIFEST_INVALID
        assert len(caught.value.message) < 200
    # CPU time of this thread, the best of three: what the event loop would be held for.
    assert min(took) < 0.1


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_large_honest_manifests_are_read() -> None:
    layers = [descriptor(str(number).encode()) for number in range(25_000)]
    data = json.dumps(image(layers=layers), separators=(",", ":")).encode()
    assert 3 * MIB < len(data) < 4 * MIB
    assert len(document.parse(data).blobs) == 25_001
    assert parse(image(annotations={str(n): "A" * 10_000 for n in range(390)}))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (json.dumps(image()).encode(), media_types.OCI_MANIFEST),
        (b'{"mediaType":"application/x.y+json"}', "application/x.y+json"),
        (b'{"manifests":[]}', media_types.OCI_INDEX),
        (b'{"layers":[]}', media_types.OCI_MANIFEST),
        (b'{"mediaType":"x\\r\\ny/z","manifests":[]}', media_types.OCI_INDEX),
        (b'{"mediaType":5}', media_types.OCI_MANIFEST),
        (b"[]", media_types.OCI_MANIFEST),
        (b"not json", media_types.OCI_MANIFEST),
        (b"\xff", media_types.OCI_MANIFEST),
    ],
)
def test_media_type_of_stored_bytes(data: bytes, expected: str) -> None:
    assert document.media_type_of(data) == expected
