"""Which endpoint a path names. Pure: no handler, no state.

The name of a repository may hold any number of slashes, so the endpoint's own words are looked
for from the right (OCI distribution-spec, "Endpoints").
"""

import re
from enum import Enum
from typing import Final, NamedTuple


class Endpoint(Enum):
    """The resources of the API; the methods that each takes are the dispatch table's business."""

    PING = "/v2/"
    TOKEN = "/v2/token"  # noqa: S105 - a path
    CATALOG = "/v2/_catalog"
    BLOB = "/v2/<name>/blobs/<digest>"
    UPLOADS = "/v2/<name>/blobs/uploads/"
    UPLOAD = "/v2/<name>/blobs/uploads/<session>"
    MANIFEST = "/v2/<name>/manifests/<reference>"
    TAGS = "/v2/<name>/tags/list"
    REFERRERS = "/v2/<name>/referrers/<digest>"
    HEALTH = "/healthz"
    READY = "/readyz"
    METRICS = "/metrics"


class Route(NamedTuple):
    """A matched path. `name` and `reference` are raw text, empty where the endpoint has none."""

    endpoint: Endpoint
    name: str = ""
    reference: str = ""


_FIXED: Final = {
    "/v2/": Route(Endpoint.PING),
    "/v2": Route(Endpoint.PING),
    "/v2/token": Route(Endpoint.TOKEN),
    "/v2/_catalog": Route(Endpoint.CATALOG),
    "/healthz": Route(Endpoint.HEALTH),
    "/readyz": Route(Endpoint.READY),
    "/metrics": Route(Endpoint.METRICS),
}

_REPOSITORY: Final = re.compile(
    r"/v2/(?P<name>.+)/(?:"
    r"(?P<uploads>blobs/uploads/?)"
    r"|blobs/uploads/(?P<session>[^/]+)"
    r"|blobs/(?P<blob>[^/]+)"
    r"|manifests/(?P<manifest>[^/]+)"
    r"|referrers/(?P<referrers>[^/]+)"
    r"|(?P<tags>tags/list)"
    r")",
    re.DOTALL,
)

_GROUPS: Final = {
    "uploads": Endpoint.UPLOADS,
    "session": Endpoint.UPLOAD,
    "blob": Endpoint.BLOB,
    "manifest": Endpoint.MANIFEST,
    "referrers": Endpoint.REFERRERS,
    "tags": Endpoint.TAGS,
}


def match(path: str) -> Route | None:
    """The route of a raw path, or None where no endpoint has that shape."""
    fixed = _FIXED.get(path)
    if fixed is not None:
        return fixed
    found = _REPOSITORY.fullmatch(path)
    if found is None:
        return None
    group = str(found.lastgroup)
    if group in ("uploads", "tags"):
        return Route(_GROUPS[group], found["name"])
    return Route(_GROUPS[group], found["name"], found[group])
