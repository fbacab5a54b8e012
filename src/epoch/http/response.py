"""A response on the wire: status line, fields, the OCI error body."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from epoch.errors import Code, RegistryError
from epoch.http.message import Response

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def _refusal(text: bytes) -> bytes:
    return (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
    )


TLS_ON_PLAIN_PORT: Final = _refusal(b"This port speaks plain HTTP, and you sent TLS.\n")
"""Clients that try TLS first fall back only when the answer begins with `HTTP/`."""

PLAIN_ON_TLS_PORT: Final = _refusal(b"This port speaks TLS, and you sent plain HTTP: use https.\n")

CLIENT_GONE: Final = 499
RESPONSE_CUT: Final = 502
"""Statuses in the log and the metrics only, of requests whose answer did not go out whole: since
the client left or stalled, or was cut at the end of the grace of a shutdown (nginx's number for
it), and since the store broke off."""

FULL: Final = RegistryError(
    Code.UNAVAILABLE, "too many connections are open", headers=(("Retry-After", "1"),)
)

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_NO_BODY: Final = frozenset({204, 304})


class _Clock:
    """The Date field, made once a second."""

    second = 0
    field = b""


def _date() -> bytes:
    now = int(time.time())
    if now != _Clock.second:
        _Clock.second = now
        _Clock.field = b"Date: " + formatdate(now, usegmt=True).encode() + b"\r\n"
    return _Clock.field


def error_response(error: RegistryError) -> Response:
    """The OCI error body (distribution-spec, "Error Codes")."""
    item: dict[str, object] = {"code": error.code.name, "message": error.message}
    if error.detail is not None:
        item["detail"] = error.detail
    headers = [("Content-Type", "application/json"), *error.headers]
    return Response(error.status, headers, json.dumps({"errors": [item]}).encode())


def render_head(response: Response, always: bytes, *, keep_alive: bool) -> bytes:
    """The bytes before the body. `always`: rendered fields of every response.

    ValueError where a field could split the response in two.
    """
    length = len(response.body) if isinstance(response.body, bytes) else response.body.length
    lines = [f"{name}: {value}\r\n" for name, value in response.headers]
    if response.status not in _NO_BODY:
        lines.append(f"Content-Length: {length}\r\n")
    if not keep_alive:
        lines.append("Connection: close\r\n")
    block = "".join(lines)
    if block.count("\n") != len(lines) or block.count("\r") != len(lines) or "\0" in block:
        raise ValueError("a control character in a response field")
    status_line = _STATUS_LINES[response.status]
    return b"".join((status_line, always, _date(), block.encode("latin-1"), b"\r\n"))


def render_error(error: RegistryError, always: bytes) -> bytes:
    """All of the last response of a connection."""
    response = error_response(error)
    assert isinstance(response.body, bytes)
    return render_head(response, always, keep_alive=False) + response.body
