"""A small HTTP client that sends exactly what it is told to, over connections that it keeps."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

LIMIT: Final = 30.0
"""Seconds that any answer may take."""
OCTETS: Final = ("Content-Type", "application/octet-stream")

Field = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. `url`: path and query of its request."""

    url: str
    status: int
    fields: tuple[Field, ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of all lines of a field."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str:
        """The value of a field with one line; "" where there is none."""
        values = self.all(name)
        assert len(values) < 2, f"{name} is there {len(values)} times"
        return values[0] if values else ""

    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)

    @property
    def location(self) -> str:
        """Path and query of its Location, which must be there."""
        location = self.get("Location")
        assert location, self
        parts = urlsplit(urljoin(f"http://epoch.test{self.url}", location))
        assert parts.netloc == "epoch.test", location
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and the one OCI code of its body, whose shape must be the spec's."""
        assert self.get("Content-Type") == "application/json", self
        (error,) = self.json()["errors"]
        assert error["message"]
        assert isinstance(error["message"], str)
        assert error.keys() <= {"code", "message", "detail"}
        return self.status, error["code"]


class Client:
    """One connection at a time, opened again where the server has closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pushed: set[str] = set()
        """The URLs of the manifests that were pushed through it."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @property
    def local_port(self) -> int | None:
        """Which connection it is; None where it is closed."""
        sock: socket.socket | None = self._connection.sock
        return None if sock is None else int(sock.getsockname()[1])

    def send(
        self,
        method: str,
        url: str,
        *fields: Field,
        body: bytes | Sequence[bytes] | None = None,
    ) -> Answer:
        """Send one request. A body that is a sequence is sent chunked, piece by piece; None sends
        no word about a body. Nothing else is added but Host."""
        connection = self._connection
        connection.putrequest(method, url, skip_accept_encoding=True)
        for name, value in fields:
            connection.putheader(name, value)
        if isinstance(body, bytes):
            connection.putheader("Content-Length", str(len(body)))
        elif body is not None:
            connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        try:
            if isinstance(body, bytes):
                connection.send(body)
            elif body is not None:
                for piece in body:
                    connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                connection.send(b"0\r\n\r\n")
        except ConnectionError:
            pass  # an early answer: it may still be there to be read
        response = connection.getresponse()
        content = response.read()
        answer = Answer(url, response.status, tuple(response.getheaders()), content)
        if method == "PUT" and answer.status == 201 and "/manifests/" in url:
            self.pushed.add(answer.location)
        return answer

    def go(
        self,
        method: str,
        url: str,
        *fields: Field,
        body: bytes | Sequence[bytes] | None = None,
    ) -> Answer:
        """Send a request as Go's client does: compressed answers are welcome unless they cannot
        be, and a POST or PUT without a body says so."""
        if body is None and method in ("POST", "PUT"):
            body = b""
        names = {name.lower() for name, _ in fields}
        if method != "HEAD" and not names & {"range", "accept-encoding"}:
            fields = (*fields, ("Accept-Encoding", "gzip"))
        return self.send(method, url, ("User-Agent", "Go-http-client/1.1"), *fields, body=body)


def exchange(port: int, raw: bytes, *, finish: bool = False) -> bytes:
    """Send raw bytes on a connection of their own, and read until the server closes it.

    `finish`: half-close after them, so that it does close.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock:
        try:
            sock.sendall(raw)
            if finish:
                sock.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass
        answer = b""
        while True:
            try:
                received = sock.recv(65536)
            except ConnectionResetError:
                return answer
            if not received:
                return answer
            answer += received


def with_digest(location: str, digest: str) -> str:
    """A Location with `digest` set, its query decoded, sorted and encoded again, as Go does."""
    path, _, query = location.partition("?")
    pairs = dict(parse_qsl(query, keep_blank_values=True)) | {"digest": digest}
    return f"{path}?{urlencode(sorted(pairs.items()))}"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """`algorithm:hex` of `data`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
