"""Object keys, behind the prefix: the Go server's, and new ones where it never lists."""

from epoch.oci.digest import Digest


def blob(digest: Digest) -> str:
    """`blobs/<algorithm>/<hex>`: a verified blob, shared by all repositories."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def manifest_by_tag(repository: str, tag: str) -> str:
    """`manifests/<repository>/<tag>.json`: the manifest's exact bytes, once more for each tag."""
    return f"manifests/{repository}/{tag}.json"


def manifest_by_digest(repository: str, digest: Digest) -> str:
    """`manifests/<repository>/_digests/<algorithm>-<hex>.json`: the manifest's exact bytes."""
    return f"manifests/{repository}/_digests/{digest.algorithm}-{digest.hex}.json"


def link(repository: str, digest: Digest) -> str:
    """`_links/<repository>/_/<algorithm>-<hex>`: a blob was pushed or mounted there."""
    return f"_links/{repository}/_/{digest.algorithm}-{digest.hex}"


def manifests(repository: str) -> str:
    """The prefix of all tags and digests of `repository`, and of nested repositories too."""
    return f"manifests/{repository}/"
