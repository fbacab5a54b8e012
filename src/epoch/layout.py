"""Where everything lies in the store: the keys of all objects, after the bucket's prefix.

Each kind of object has one function that builds its key and one that parses it. Writers, readers
and garbage collection use these and nothing else. Blobs, manifests and `catalog.json` lie where the
Go server has them, the rest where that server never lists.

Names of repositories contain slashes, and repositories nest. So a folder that belongs to one
repository, and not to those nested in it, ends in `_`, which no repository is called.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from epoch.errors import RegistryError
from epoch.oci.digest import HEX_LENGTH, Digest
from epoch.oci.names import is_tag

BLOBS: Final = "blobs/"
MANIFESTS: Final = "manifests/"
REFERRERS: Final = "referrers/"
CATALOG: Final = "_catalog/"
LINKS: Final = "_links/"
TAG_FORMS: Final = "_tags/"
DELETIONS: Final = "_deletions/"
UPLOADS: Final = "_uploads/"
PINS: Final = "_pins/"
NOTES: Final = "_gc/"
SWEEPS: Final = "_gc/sweeps/"
BLOB_DELETIONS: Final = "_gc/deletions/"

DASHBOARD: Final = "catalog.json"
"""All repositories and tags, for the Go server's dashboard."""
CATALOG_COMPLETE: Final = "_catalog/_complete"
"""Empty: every repository has a marker."""
UPLOAD_SECRET: Final = "_uploads/secret"  # noqa: S105 - where the secret lies
"""What the names of upload sessions are authenticated with."""
LAST_COLLECTION: Final = "_gc/last"
"""Empty: its time is that of the last garbage collection."""

_NAME: Final = "_"
_SUFFIX: Final = ".json"
_DIGEST: Final = "(?:sha256|sha512)-[0-9a-f]+"

_BLOB: Final = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)")
_MANIFEST: Final = re.compile(r"manifests/(.+?)(/_digests)?/([^/]+)\.json", re.DOTALL)
_REFERRER: Final = re.compile(rf"referrers/(.+)/({_DIGEST})/({_DIGEST})\.json")
_REFERRERS_COMPLETE: Final = re.compile(r"referrers/(.+)/_complete")
_CATALOG_MARKER: Final = re.compile(r"_catalog/(.+)/_")
_LINK: Final = re.compile(rf"_links/(.+)/_/({_DIGEST})")
_TAG_FORM: Final = re.compile(r"_tags/(.+)/_/([^/]+)")
_DELETION: Final = re.compile(r"_deletions/(.+)/_/([^/]+)")
_UPLOAD: Final = re.compile(r"_uploads/([0-9a-f]{32})/.+")
_PIN: Final = re.compile(rf"_pins/([0-9]+)/({_DIGEST})")
_SWEEP: Final = re.compile(r"_gc/sweeps/([^/]+)")
_BLOB_DELETION: Final = re.compile(rf"_gc/deletions/({_DIGEST})/([^/]+)")


class ManifestKey(NamedTuple):
    """What the key of an object below `manifests/` says. Names are not checked."""

    repository: str
    name: str
    is_copy: bool

    @property
    def tag(self) -> str | None:
        """The tag that the object stands for, or None."""
        return self.name if not self.is_copy and is_tag(self.name) else None

    @property
    def digest(self) -> Digest | None:
        """The digest that the object is the copy of, or None."""
        return parse_digest_name(self.name) if self.is_copy else None


class ReferrerKey(NamedTuple):
    """What the key of a referrer's entry says."""

    repository: str
    subject: Digest
    referrer: Digest


def digest_name(digest: Digest) -> str:
    """`<algorithm>-<hex>`: a digest as a part of a key."""
    return f"{digest.algorithm}-{digest.hex}"


def parse_digest_name(name: str) -> Digest | None:
    """The digest that a part of a key names, or None."""
    algorithm, _, value = name.partition("-")
    if algorithm not in HEX_LENGTH:
        return None
    try:
        return Digest.parse(f"{algorithm}:{value}")
    except RegistryError:
        return None


def blob(digest: Digest) -> str:
    """`blobs/<algorithm>/<hex>`: a verified blob, shared by all repositories."""
    return f"{blobs(digest.algorithm)}{digest.hex}"


def blobs(algorithm: str) -> str:
    """The prefix of all blobs that were pushed under digests of one algorithm."""
    return f"{BLOBS}{algorithm}/"


def parse_blob(key: str) -> Digest | None:
    """The digest of the blob at a key, or None."""
    found = _BLOB.fullmatch(key)
    return None if found is None else parse_digest_name(f"{found[1]}-{found[2]}")


def manifest_by_tag(repository: str, tag: str) -> str:
    """`manifests/<repository>/<tag>.json`: the manifest's exact bytes, once more for each tag."""
    return f"{manifests(repository)}{tag}{_SUFFIX}"


def manifest_by_digest(repository: str, digest: Digest) -> str:
    """`manifests/<repository>/_digests/<algorithm>-<hex>.json`: the manifest's exact bytes."""
    return f"{manifest_copies(repository)}{digest_name(digest)}{_SUFFIX}"


def manifests(repository: str) -> str:
    """The prefix of all tags and digest copies of a repository, and of nested ones too."""
    return f"{MANIFESTS}{repository}/"


def manifest_copies(repository: str) -> str:
    """The prefix of the digest copies of a repository, without those of nested ones."""
    return f"{manifests(repository)}_digests/"


def parse_manifest(key: str) -> ManifestKey | None:
    """What the key of an object below `manifests/` says, or None for any other key."""
    found = _MANIFEST.fullmatch(key)
    return None if found is None else ManifestKey(found[1], found[3], found[2] is not None)


def tag_in(name: str) -> str | None:
    """The tag that a file of a repository's folder (`<tag>.json`) stands for, or None."""
    tag = name.removesuffix(_SUFFIX)
    return tag if tag != name and is_tag(tag) else None


def referrer(repository: str, subject: Digest, digest: Digest) -> str:
    """`referrers/<repository>/<subject>/<referrer>.json`: a descriptor of the referrer."""
    return f"{referrers(repository, subject)}{digest_name(digest)}{_SUFFIX}"


def referrers(repository: str, subject: Digest) -> str:
    """The prefix of the entries of a subject's referrers."""
    return f"{REFERRERS}{repository}/{digest_name(subject)}/"


def parse_referrer(key: str) -> ReferrerKey | None:
    """What the key of a referrer's entry says, or None."""
    found = _REFERRER.fullmatch(key)
    if found is None:
        return None
    subject, digest = parse_digest_name(found[2]), parse_digest_name(found[3])
    return None if subject is None or digest is None else ReferrerKey(found[1], subject, digest)


def referrers_complete(repository: str) -> str:
    """`referrers/<repository>/_complete`, empty: all referrers of the repository have entries."""
    return f"{REFERRERS}{repository}/_complete"


def parse_referrers_complete(key: str) -> str | None:
    """The repository that such a key belongs to, or None."""
    return _part_of(_REFERRERS_COMPLETE, key)


def catalog_marker(repository: str) -> str:
    """`_catalog/<repository>/_`: the repository holds a manifest; random digits."""
    return f"{CATALOG}{repository}/{_NAME}"


def parse_catalog_marker(key: str) -> str | None:
    """The repository that such a key belongs to, or None."""
    return _part_of(_CATALOG_MARKER, key)


def link(repository: str, digest: Digest) -> str:
    """`_links/<repository>/_/<algorithm>-<hex>`, empty: a blob was pushed or mounted there."""
    return f"{LINKS}{repository}/{_NAME}/{digest_name(digest)}"


def parse_link(key: str) -> tuple[str, Digest] | None:
    """The repository and the blob that a link joins, or None."""
    return _part_and_digest(_LINK, key)


def tag_form(repository: str, tag: str) -> str:
    """`_tags/<repository>/_/<tag>`: the digest of a tag whose algorithm is not sha256."""
    return f"{TAG_FORMS}{repository}/{_NAME}/{tag}"


def parse_tag_form(key: str) -> tuple[str, str] | None:
    """The repository and the tag of such a key, or None."""
    found = _TAG_FORM.fullmatch(key)
    return None if found is None else (found[1], found[2])


def deletion(repository: str, token: str) -> str:
    """`_deletions/<repository>/_/<random>`, empty: manifests are being deleted there."""
    return f"{deletions(repository)}{token}"


def deletions(repository: str) -> str:
    """The prefix of the notes of deletions in a repository."""
    return f"{DELETIONS}{repository}/{_NAME}/"


def parse_deletion(key: str) -> str | None:
    """The repository of such a note, or None."""
    return _part_of(_DELETION, key)


def upload(session: str) -> str:
    """`_uploads/<id>/`: the prefix of all objects of an upload session."""
    return f"{UPLOADS}{session}/"


def upload_data(session: str) -> str:
    """`_uploads/<id>/data`: where the multipart upload of a session is made."""
    return f"{upload(session)}data"


def upload_states(session: str) -> str:
    """The prefix of the generations of a session, and of `upload_alive`."""
    return f"{upload(session)}state/"


def upload_state(session: str, generation: int) -> str:
    """`_uploads/<id>/state/<generation>`: one generation, in eight digits."""
    return f"{upload_states(session)}{generation:08d}"


def upload_alive(session: str) -> str:
    """`_uploads/<id>/state/alive`, empty: a request receives. Beside the generations, so that one
    list shows when the session was last written to."""
    return f"{upload_states(session)}alive"


def upload_tail(session: str, offset: int, token: str) -> str:
    """`_uploads/<id>/tail/<offset>-<random>`: bytes after the last full part."""
    return f"{upload(session)}tail/{offset:020d}-{token}"


def parse_upload(key: str) -> str | None:
    """The session that an object belongs to, or None."""
    return _part_of(_UPLOAD, key)


def pin(period: int, digest: Digest) -> str:
    """`_pins/<period>/<algorithm>-<hex>`, empty: a request relies on an old blob."""
    return f"{PINS}{period}/{digest_name(digest)}"


def parse_pin(key: str) -> tuple[int, Digest] | None:
    """The period and the blob of a pin, or None."""
    found = _part_and_digest(_PIN, key)
    return None if found is None else (int(found[0]), found[1])


def sweep(token: str) -> str:
    """`_gc/sweeps/<random>`: the digests that a collection is about to remove, a line each."""
    return f"{SWEEPS}{token}"


def parse_sweep(key: str) -> str | None:
    """The random part of the key of such an announcement, or None."""
    return _part_of(_SWEEP, key)


def blob_deletion(digest: Digest, token: str) -> str:
    """`_gc/deletions/<algorithm>-<hex>/<random>`: a request deletes a blob; empty: it has."""
    return f"{BLOB_DELETIONS}{digest_name(digest)}/{token}"


def parse_blob_deletion(key: str) -> Digest | None:
    """The blob that such a note is about, or None."""
    found = _BLOB_DELETION.fullmatch(key)
    return None if found is None else parse_digest_name(found[1])


def _part_of(pattern: re.Pattern[str], key: str) -> str | None:
    found = pattern.fullmatch(key)
    return None if found is None else found[1]


def _part_and_digest(pattern: re.Pattern[str], key: str) -> tuple[str, Digest] | None:
    found = pattern.fullmatch(key)
    digest = None if found is None else parse_digest_name(found[2])
    return None if found is None or digest is None else (found[1], digest)
