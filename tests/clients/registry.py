"""The registry under test as a client sees it from outside, and our own plain view of it."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from tests.clients.images import MANIFEST, Content, Image, Source, read_content
from tests.tools.server import Server

_TYPES = f"{MANIFEST}, application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password."""

    user: str
    password: str

    @property
    def authorization(self) -> str:
        """The value of the header field."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Registry:
    """A running `epoch serve`. What is None does not hold: no TLS, nobody has to sign in."""

    server: Server
    ca: Path | None = None
    login: Login | None = None

    @property
    def host(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.server.port}"

    @property
    def url(self) -> str:
        """With its scheme."""
        return f"{'https' if self.ca else 'http'}://{self.host}"

    def without_login(self) -> Registry:
        """As one who has not signed in."""
        return replace(self, login=None)

    @contextmanager
    def _answer(
        self,
        method: str,
        target: str,
        body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        if self.ca is None:
            connection = http.client.HTTPConnection(self.host, timeout=60)
        else:
            context = ssl.create_default_context(cafile=self.ca)
            connection = http.client.HTTPSConnection(self.host, timeout=60, context=context)
        fields = dict(headers or {})
        if self.login:
            fields["Authorization"] = self.login.authorization
        try:
            connection.request(method, target, body, fields)
            yield connection.getresponse()
        finally:
            connection.close()

    def status(self, method: str, target: str) -> int:
        """The status of a request without a body."""
        with self._answer(method, target) as answer:
            answer.read()
            return answer.status

    def put_image(self, image: Image, repository: str, tag: str) -> None:
        """Store an image with requests of our own."""
        for digest in image.blobs:
            with image.path(digest).open("rb") as file:
                length = {"Content-Length": str(image.path(digest).stat().st_size)}
                self._put(f"/v2/{repository}/blobs/{digest}", file, length)
        manifest = image.path(image.content.digest).read_bytes()
        self._put(f"/v2/{repository}/manifests/{tag}", manifest, {"Content-Type": MANIFEST})

    def _put(self, target: str, body: bytes | IO[bytes], headers: Mapping[str, str]) -> None:
        with self._answer("PUT", target, body, headers) as answer:
            text = answer.read()
            assert answer.status == 201, f"PUT {target}: {answer.status} {text!r}"

    def content(self, repository: str, tag: str) -> Content:
        """What an image in the registry holds, by its bytes."""
        target = f"/v2/{repository}/manifests/{tag}"
        with self._answer("HEAD", target, headers={"Accept": _TYPES}) as answer:
            assert answer.status == 200, f"HEAD {target}: {answer.status}"
            digest = answer.headers["Docker-Content-Digest"]

        @contextmanager
        def open_blob(at: str) -> Iterator[Source]:
            kind = "manifests" if at == digest else "blobs"
            target = f"/v2/{repository}/{kind}/{at}"
            with self._answer("GET", target, headers={"Accept": _TYPES}) as answer:
                assert answer.status == 200, f"GET {target}: {answer.status}"
                yield answer

        return read_content(digest, open_blob)

    def has(self, repository: str, tag: str) -> bool:
        """Whether there is such an image."""
        status = self.status("HEAD", f"/v2/{repository}/manifests/{tag}")
        assert status in (200, 404)
        return status == 200

    def tags(self, repository: str) -> list[str]:
        """Its tags; none where there is no such repository."""
        with self._answer("GET", f"/v2/{repository}/tags/list") as answer:
            body = json.loads(answer.read())
            return list(body["tags"]) if answer.status == 200 else []

    def received(self, repository: str) -> int:
        """Bytes of all bodies that were sent to a repository."""
        line = re.compile(rf" info request .* path=/v2/{repository}/\S+ .* received=(\d+) ")
        return sum(map(int, line.findall(self.server.log())))

    def assert_holds_nothing(self) -> None:
        """No part buffer is lent and no multipart upload is open, by its own metrics."""
        with self._answer("GET", "/metrics") as answer:
            text = answer.read().decode()
        for name in ("epoch_buffer_lent_bytes", "epoch_multipart_uploads"):
            found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
            assert found is not None
            assert float(found[1]) == 0, f"{name} is {found[1]}"
