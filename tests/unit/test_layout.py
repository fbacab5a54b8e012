"""The keys of all objects: each is parsed to what it was built from, and by its kind alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epoch import layout
from epoch.oci.digest import HEX_LENGTH, Digest
from epoch.oci.names import is_name, is_tag
from tests.tools.kinds import PARSERS, kind_of

DIGESTS = st.sampled_from(sorted(HEX_LENGTH)).flatmap(
    lambda algorithm: st.binary(max_size=3).map(lambda data: Digest.of(data, algorithm))
)
PART = st.from_regex(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", fullmatch=True).map(lambda text: text[:20])
# Some that look like the layout's own words.
ODD = st.sampled_from(["blobs", "manifests", "t.json", "sha256-" + 64 * "a", "state", "data"])
NAMES = st.lists(PART | ODD, min_size=1, max_size=4).map("/".join).filter(is_name)
TAGS = (PART | ODD | st.sampled_from(["_digests", "_complete", "V1"])).filter(is_tag)
TOKENS = st.binary(min_size=8, max_size=8).map(bytes.hex)
SESSIONS = st.binary(min_size=16, max_size=16).map(bytes.hex)


def only(key: str, kind: str) -> None:
    assert kind_of(key) == kind
    assert [name for name, parse in PARSERS.items() if parse(key) is not None] == [kind]


@given(NAMES, TAGS, DIGESTS, DIGESTS, TOKENS)
def test_what_belongs_to_a_repository(
    name: str, tag: str, digest: Digest, subject: Digest, token: str
) -> None:
    key = layout.manifest_by_tag(name, tag)
    parsed = layout.parse_manifest(key)
    assert parsed is not None
    assert (parsed.repository, parsed.tag, parsed.digest) == (name, tag, None)
    only(key, "manifest")

    key = layout.manifest_by_digest(name, digest)
    parsed = layout.parse_manifest(key)
    assert parsed is not None
    assert (parsed.repository, parsed.tag, parsed.digest) == (name, None, digest)
    only(key, "manifest")

    key = layout.referrer(name, subject, digest)
    assert layout.parse_referrer(key) == (name, subject, digest)
    assert key.startswith(layout.referrers(name, subject))
    only(key, "referrer")

    checks: list[tuple[str, str, Callable[[str], object], object]] = [
        (
            "referrers complete",
            layout.referrers_complete(name),
            layout.parse_referrers_complete,
            name,
        ),
        ("catalog marker", layout.catalog_marker(name), layout.parse_catalog_marker, name),
        ("link", layout.link(name, digest), layout.parse_link, (name, digest)),
        ("tag form", layout.tag_form(name, tag), layout.parse_tag_form, (name, tag)),
        ("deletion", layout.deletion(name, token), layout.parse_deletion, name),
    ]
    for kind, key, parse, wanted in checks:
        assert parse(key) == wanted
        only(key, kind)


@given(DIGESTS, TOKENS, SESSIONS, st.integers(0, 99_999_999), st.integers(0, 10**15))
def test_what_belongs_to_none(
    digest: Digest, token: str, session: str, number: int, offset: int
) -> None:
    assert layout.parse_blob(layout.blob(digest)) == digest
    only(layout.blob(digest), "blob")
    for key in (
        layout.upload_data(session),
        layout.upload_state(session, number),
        layout.upload_alive(session),
        layout.upload_tail(session, offset, token),
    ):
        assert layout.parse_upload(key) == session
        only(key, "upload")
    assert layout.parse_pin(layout.pin(number, digest)) == (number, digest)
    only(layout.pin(number, digest), "pin")
    assert layout.parse_sweep(layout.sweep(token)) == token
    only(layout.sweep(token), "sweep")
    assert layout.parse_blob_deletion(layout.blob_deletion(digest, token)) == digest
    only(layout.blob_deletion(digest, token), "blob deletion")


def test_single_objects() -> None:
    singles = (
        layout.DASHBOARD,
        layout.CATALOG_COMPLETE,
        layout.UPLOAD_SECRET,
        layout.LAST_COLLECTION,
    )
    for key in singles:
        assert kind_of(key) == key
        assert not [name for name, parse in PARSERS.items() if parse(key) is not None]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "blobs/",
        "blobs/sha256/",
        "blobs/sha256/abc",
        "blobs/md5/" + 32 * "a",
        "blobs/sha256/" + 64 * "A",
        f"blobs/sha256/{64 * 'a'}/x",
        "manifests/a/b",
        "manifests/v1.json",
        f"referrers/a/sha256-{64 * 'a'}/x.json",
        f"_links/a/sha256-{64 * 'a'}",
        "_uploads/short/data",
        "_pins/x/y",
        "_gc/",
        "anything/else",
    ],
)
def test_what_is_no_key_of_ours(key: str) -> None:
    assert kind_of(key) is None
