"""Signature Version 4 of the two requests whose cost grows with a push: each part, and the list of
all parts at its end.

aiobotocore builds, signs and parses every request anew for about 0.75 ms of CPU: for a part that
is 4 % of a whole push, and the list takes it 22 us per part, in which nobody else is served. All
other requests stay with aiobotocore. Source: Amazon S3, "Authenticating Requests (AWS Signature
Version 4)".
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Final
from urllib.parse import quote, urlsplit

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
_SIGNED: Final = "host;x-amz-content-sha256;x-amz-date"


class Signer:
    """Requests of multipart uploads to the objects below one URL."""

    def __init__(self, base_url: str, access_key: str, secret_key: str, region: str) -> None:
        """`base_url`: of the bucket, with a final slash, without a query. No `secret_key`:
        requests go unsigned."""
        split = urlsplit(base_url)
        self._origin = f"{split.scheme}://{split.netloc}"
        self._path = split.path
        self._host = split.netloc
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._day = ""
        self._day_key = b""

    def part(
        self, key: str, upload_id: str, number: int, now: float | None = None
    ) -> tuple[str, dict[str, str]]:
        """The URL of part `number`, and the header fields that sign it at Unix time `now`."""
        query = f"partNumber={number}&uploadId={_quoted(upload_id)}"
        return self._request("PUT", key, query, UNSIGNED, now)

    def complete(self, key: str, upload_id: str, body: bytes) -> tuple[str, dict[str, str]]:
        """The URL to complete an upload, and the header fields that sign that and the body."""
        query = f"uploadId={_quoted(upload_id)}"
        return self._request("POST", key, query, hashlib.sha256(body).hexdigest(), None)

    def _request(
        self, method: str, key: str, query: str, payload: str, now: float | None
    ) -> tuple[str, dict[str, str]]:
        path = self._path + quote(key, safe="/-_.~")
        url = f"{self._origin}{path}?{query}"
        if not self._secret_key:
            return url, {"Host": self._host}
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        day = stamp[:8]
        scope = f"{day}/{self._region}/s3/aws4_request"
        canonical = (
            f"{method}\n{path}\n{query}\nhost:{self._host}\nx-amz-content-sha256:{payload}\n"
            f"x-amz-date:{stamp}\n\n{_SIGNED}\n{payload}"
        )
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
        signature = hmac.digest(self._key_of(day), to_sign.encode(), "sha256").hex()
        return url, {
            "Host": self._host,
            "x-amz-date": stamp,
            "x-amz-content-sha256": payload,
            "Authorization": (
                f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, "
                f"SignedHeaders={_SIGNED}, Signature={signature}"
            ),
        }

    def _key_of(self, day: str) -> bytes:
        """The signing key: the same for a whole day (UTC)."""
        if day != self._day:
            key = f"AWS4{self._secret_key}".encode()
            for step in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._day, self._day_key = day, key
        return self._day_key


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")
