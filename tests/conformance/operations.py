"""The operations of the official conformance program: what it sends, and what it accepts.

Source: opencontainers/distribution-spec, `conformance/api.go`, version `dev`. Demanded here in
addition: the codes of errors, and Docker-Content-Digest wherever clients read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from tests.conformance.client import OCTETS, Answer, Client, Field, digest_of, with_digest

IMAGE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
ACCEPT: Final = (("Accept", INDEX), ("Accept", IMAGE))
CHUNK: Final = 1024


class Repository:
    """A repository, as the program uses it. `checks` counts as its own report does."""

    def __init__(self, client: Client, name: str, algorithm: str = "sha256") -> None:
        self.client = client
        self.name = name
        self.algorithm = algorithm
        self.checks = 0

    def digest(self, data: bytes) -> str:
        """The digest of `data` in the algorithm that is tried."""
        return digest_of(data, self.algorithm)

    def url(self, *parts: str) -> str:
        """`/v2/<name>/<parts>`."""
        return "/".join(["", "v2", self.name, *parts])

    @property
    def uploads(self) -> str:
        """Where uploads begin."""
        return self.url("blobs", "uploads", "")

    def go(
        self, method: str, url: str, *fields: Field, body: bytes | Sequence[bytes] | None = None
    ) -> Answer:
        """A request as the program sends it."""
        return self.client.go(method, url, *fields, body=body)

    # Blobs: the ways to push them. `digest`: of other bytes, where the push must be refused.

    def begin(self, query: str = "") -> Answer:
        """The POST that begins an upload."""
        answer = self.go("POST", self.uploads + query)
        assert answer.status == 202, answer
        assert answer.get("Range") == "0-0"
        return answer

    def post_put(self, data: bytes, digest: str | None = None) -> None:
        """POST, then PUT with the whole blob."""
        self._put_whole(self.begin(), data, digest)
        self.checks += 1

    def post_only(self, data: bytes, digest: str | None = None) -> None:
        """One POST with the whole blob."""
        query = urlencode({"digest": digest or self.digest(data)})
        answer = self.go("POST", f"{self.uploads}?{query}", OCTETS, body=as_body(data))
        self._judge(answer, data, digest)
        self.checks += 1

    def stream(self, data: bytes, digest: str | None = None) -> None:
        """POST, one PATCH without a length, PUT."""
        begun = self.begin()
        patched = self.go("PATCH", begun.location, OCTETS, body=[data] if data else [])
        assert patched.status == 202, patched
        assert patched.get("Range") == f"0-{max(len(data) - 1, 0)}"
        self.close(patched.location, data, digest)
        self.checks += 1

    def chunked(
        self, data: bytes, digest: str | None = None, *, put_last: bool = False
    ) -> list[int]:
        """POST, a PATCH for each chunk, PUT; `put_last`: the last chunk comes with the PUT.

        Returns the sizes of the chunks.
        """
        size = min(max(len(data) // 3 + 1, CHUNK), len(data))
        starts = list(range(0, len(data), size)) if data else []
        put_last = put_last and bool(starts)
        answer = self.begin()
        for start in starts[:-1] if put_last else starts:
            chunk = data[start : start + size]
            answer = self.patch(answer.location, data, start, start + len(chunk))
            assert answer.status == 202, answer
            assert answer.get("Range") == f"0-{start + len(chunk) - 1}"
        if put_last:
            self._judge(self.put_chunk(answer.location, data, starts[-1], digest), data, digest)
        else:
            self.close(answer.location, data, digest)
        self.checks += 1
        return [len(data[start : start + size]) for start in starts]

    def patch(self, url: str, data: bytes, start: int, stop: int) -> Answer:
        """A PATCH with bytes `start` to `stop` of `data`, unjudged."""
        span = ("Content-Range", f"{start}-{stop - 1}")
        return self.go("PATCH", url, OCTETS, span, body=data[start:stop])

    def put_chunk(self, url: str, data: bytes, start: int, digest: str | None = None) -> Answer:
        """The closing PUT with the last chunk, unjudged."""
        url = with_digest(url, digest or self.digest(data))
        span = ("Content-Range", f"{start}-{len(data) - 1}")
        return self.go("PUT", url, OCTETS, span, body=data[start:])

    def close(self, url: str, data: bytes, digest: str | None = None) -> None:
        """The closing PUT without a body."""
        answer = self.go("PUT", with_digest(url, digest or self.digest(data)), OCTETS)
        self._judge(answer, data, digest)

    def mount(self, data: bytes, source: str | None, *, found: bool = True) -> None:
        """Mount a blob from another repository (None: from any); not `found`: it is nowhere."""
        named = {} if source is None else {"from": source}
        query = urlencode(sorted({**named, "mount": self.digest(data)}.items()))
        answer = self.go("POST", f"{self.uploads}?{query}")
        if found:
            self._judge(answer, data, None)
        else:
            assert answer.status == 202, answer
            self._put_whole(answer, data, None)
        self.checks += 1

    def cancel(self) -> str:
        """Begin an upload and give it up; returns its URL."""
        begun = self.begin()
        answer = self.go("DELETE", begun.location)
        assert answer.status == 204, answer
        assert answer.body == b""
        self.checks += 1
        return begun.location

    def _put_whole(self, begun: Answer, data: bytes, digest: str | None) -> None:
        url = with_digest(begun.location, digest or self.digest(data))
        self._judge(self.go("PUT", url, OCTETS, body=as_body(data)), data, digest)

    def _judge(self, answer: Answer, data: bytes, refused: str | None) -> None:
        if refused is not None:
            assert answer.refusal == (400, "DIGEST_INVALID")
            assert self.go("GET", self.url("blobs", refused)).status == 404
            return
        assert answer.status == 201, answer
        assert answer.get("Docker-Content-Digest") == self.digest(data)
        pulled = self.go("GET", answer.location)
        assert pulled.status == 200, pulled
        assert pulled.body == data

    # Blobs: what else there is to do with them

    def missing_blob(self, digest: str) -> None:
        """GET of a blob that is not there."""
        answer = self.go("GET", self.url("blobs", digest))
        assert answer.refusal == (404, "BLOB_UNKNOWN")
        self.checks += 1

    def head_blob(self, data: bytes) -> None:
        """HEAD of a blob."""
        answer = self.go("HEAD", self.url("blobs", self.digest(data)))
        assert answer.status == 200, answer
        assert answer.get("Content-Length") == str(len(data))
        assert answer.get("Docker-Content-Digest") == self.digest(data)
        self.checks += 1

    def get_blob(self, data: bytes) -> None:
        """GET of a blob."""
        answer = self.go("GET", self.url("blobs", self.digest(data)))
        assert answer.status == 200, answer
        assert answer.body == data
        assert answer.get("Content-Length") == str(len(data))
        assert answer.get("Docker-Content-Digest") == self.digest(data)
        assert not answer.get("Content-Encoding")
        self.checks += 1

    def delete_blob(self, data: bytes, *, there: bool = True) -> None:
        """DELETE of a blob, and HEAD after it. The program takes 404 too; `there`: we do not."""
        url = self.url("blobs", self.digest(data))
        assert self.go("DELETE", url).status == (202 if there else 404)
        assert self.go("HEAD", url).status == 404
        self.checks += 2

    def head_get_delete(self, data: bytes) -> None:
        """What follows every push of a blob."""
        self.head_blob(data)
        self.get_blob(data)
        self.delete_blob(data)

    # Manifests

    def put(self, reference: str, data: bytes, content_type: str | None = IMAGE) -> Answer:
        """PUT of a manifest, unjudged."""
        fields = [] if content_type is None else [("Content-Type", content_type)]
        return self.go("PUT", self.url("manifests", reference), *fields, body=data)

    def put_manifest(
        self,
        data: bytes,
        media_type: str,
        *,
        tag: str | None = None,
        tags: Sequence[str] = (),
        subject: str | None = None,
    ) -> Answer:
        """PUT of a manifest under its digest or `tag`; `tags`: sent as `?tag=`."""
        digest = self.digest(data)
        url = self.url("manifests", tag or digest)
        if tags:
            url += "?" + urlencode([("tag", each) for each in tags])
        answer = self.go("PUT", url, ("Content-Type", media_type), body=[data])
        assert answer.status == 201, answer
        assert answer.get("Docker-Content-Digest") == (digest if tag is None else digest_of(data))
        assert answer.get("OCI-Subject") == (subject or "")
        made = [item.strip() for line in answer.all("OCI-Tag") for item in line.split(",")]
        assert made == list(tags)
        self._judge_manifest(self.go("GET", answer.location, *ACCEPT), data, media_type)
        self.checks += 1
        return answer

    def get_manifest(self, reference: str, data: bytes, media_type: str) -> None:
        """GET of a manifest by digest or tag."""
        answer = self.go("GET", self.url("manifests", reference), *ACCEPT)
        self._judge_manifest(answer, data, media_type)
        assert answer.get("Docker-Content-Digest") == self._digest_under(reference, data)
        self.checks += 1

    def head_manifest(self, reference: str, data: bytes, media_type: str) -> None:
        """HEAD of a manifest by digest or tag."""
        answer = self.go("HEAD", self.url("manifests", reference), *ACCEPT)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.get("Content-Type") == media_type
        assert answer.get("Content-Length") == str(len(data))
        assert answer.get("Docker-Content-Digest") == self._digest_under(reference, data)
        self.checks += 1

    def delete_manifest(self, reference: str) -> None:
        """DELETE of a manifest or tag, and HEAD after it."""
        url = self.url("manifests", reference)
        assert self.go("DELETE", url).status == 202
        assert self.go("HEAD", url, *ACCEPT).status == 404
        self.checks += 2

    def _digest_under(self, reference: str, data: bytes) -> str:
        return reference if ":" in reference else self.digest(data)

    @staticmethod
    def _judge_manifest(answer: Answer, data: bytes, media_type: str) -> None:
        assert answer.status == 200, answer
        assert answer.body == data
        assert answer.all("Content-Type") == [media_type]
        assert answer.get("Content-Length") == str(len(data))

    # Lists

    def tags(self, query: str = "") -> list[str]:
        """The tags of a repository; none where it is unknown."""
        answer = self.go("GET", self.url("tags", "list") + query)
        if answer.status == 404:
            assert answer.refusal == (404, "NAME_UNKNOWN")
            return []
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json()
        assert found["name"] == self.name
        tags: list[str] = found["tags"]
        return tags

    def tag_list(self, expected: Iterable[str]) -> None:
        """The list of tags, which must be those, and its second half by `last`."""
        wanted = sorted(expected)
        assert self.tags() == wanted
        if len(wanted) > 1:
            half = len(wanted) // 2
            assert self.tags(f"?last={quote(wanted[half - 1])}") == wanted[half:]
        self.checks += 1

    def referrers(self, subject: str, expected: Sequence[dict[str, Any]]) -> None:
        """The referrers of a digest, all and then by each artifact type."""
        url = self.url("referrers", subject)
        assert _by_digest(self._referrers(url)) == _by_digest(expected)
        for artifact_type in {str(entry["artifactType"]) for entry in expected}:
            answer = self._referrers(f"{url}?{urlencode({'artifactType': artifact_type})}", True)
            wanted = [entry for entry in expected if entry["artifactType"] == artifact_type]
            assert _by_digest(answer) == _by_digest(wanted)
        self.checks += 1

    def _referrers(self, url: str, filtered: bool = False) -> list[dict[str, Any]]:
        answer = self.go("GET", url)
        assert answer.status == 200, answer
        assert answer.all("Content-Type") == [INDEX]
        assert answer.get("OCI-Filters-Applied") == ("artifactType" if filtered else "")
        index: dict[str, Any] = answer.json()
        assert (index["schemaVersion"], index["mediaType"]) == (2, INDEX)
        manifests: list[dict[str, Any]] = index["manifests"]
        return manifests


def as_body(data: bytes) -> bytes | Sequence[bytes]:
    """The body that Go makes of bytes: none at all has no length, so it is sent chunked."""
    return data or []


def _by_digest(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entries, key=lambda entry: str(entry["digest"]))
