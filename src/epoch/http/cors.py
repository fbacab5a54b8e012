"""Lets pages of other origins use the registry from a browser (WHATWG Fetch, "HTTP CORS protocol").

Off unless origins are named: browsers then keep pages of other origins from reading any answer.
"""

from __future__ import annotations

from typing import Final

from epoch.http.message import Request, Response

ANY: Final = "*"

_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE"
_REQUEST_FIELDS: Final = (
    "Accept, Authorization, Content-Range, Content-Type, If-None-Match, If-Range, Range"
)
_RESPONSE_FIELDS: Final = (
    "Content-Length, Content-Range, Docker-Content-Digest, Docker-Distribution-API-Version, "
    "Docker-Upload-UUID, ETag, Link, Location, OCI-Filters-Applied, "
    "OCI-Subject, OCI-Tag, Range, Retry-After, WWW-Authenticate, X-Request-Id"
)
"""What a page may read beside the few fields that it always may."""

_SECONDS: Final = "600"
"""How long a browser may remember a preflight."""


class Cors:
    """The fields that name who may read an answer."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        """`origins`: `scheme://host[:port]`, or `*` for all."""
        self._named = frozenset(origins) - {ANY}
        self._any = ANY in origins

    def fields(self, request: Request) -> list[tuple[str, str]]:
        """What is added to the answer to a request.

        Only origins that are named may send credentials that the browser holds (cookies, client
        certificates, passwords it remembers); a page that sets Authorization itself needs no leave.
        """
        vary = [("Vary", "Origin")] if self._named else []
        origin = request.headers.get("origin")
        if origin in self._named:
            found = [
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Allow-Credentials", "true"),
            ]
        elif self._any:
            found = [("Access-Control-Allow-Origin", ANY)]
        else:
            return vary
        return [*vary, *found, ("Access-Control-Expose-Headers", _RESPONSE_FIELDS)]

    def preflight(self, request: Request) -> Response | None:
        """The answer to a browser that asks whether it may send a request; None: it is none."""
        if request.method != "OPTIONS" or "access-control-request-method" not in request.headers:
            return None
        return Response(
            204,
            [
                ("Access-Control-Allow-Methods", _METHODS),
                ("Access-Control-Allow-Headers", _REQUEST_FIELDS),
                ("Access-Control-Max-Age", _SECONDS),
            ],
        )
