"""Signature Version 4 of all requests to the bucket.

aiobotocore builds, signs and parses every request anew for about 0.75 ms of CPU: for a part that
is 4 % of a whole push, for a manifest most of a pull. Here it is 20 us. Source: Amazon S3,
"Authenticating Requests (AWS Signature Version 4)".
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from epoch.config import S3Settings

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
_SIGNED: Final = "host;x-amz-content-sha256;x-amz-date"
_PRESIGNED: Final = "host"
_AWS: Final = ".amazonaws.com"
_HOST_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)


def base_url(settings: S3Settings) -> str:
    """The URL of the bucket, with a final slash: by path, but on AWS as a host of its own.

    AWS wants that of new buckets, where the name can be part of a host that its certificate covers
    (Amazon S3, "Virtual hosting of buckets").
    """
    host, colon, port = settings.endpoint.partition(":")
    if host.endswith(_AWS) and _HOST_LABEL.fullmatch(settings.bucket):
        if host == f"s3{_AWS}":
            host = f"s3.{settings.region}{_AWS}"
        scheme = "https" if settings.secure else "http"
        return f"{scheme}://{settings.bucket}.{host}{colon}{port}/"
    return f"{settings.url}/{settings.bucket}/"


def copy_source(bucket: str, key: str) -> str:
    """The `x-amz-copy-source` field for an object: percent-encoded, as in a URL."""
    return quote(f"{bucket}/{key}", safe="/-_.~")


class Signer:
    """Requests about the bucket at one URL, and the objects in it."""

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

    def sign(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        payload: str = UNSIGNED,
        now: float | None = None,
        amz: Mapping[str, str] | None = None,
    ) -> tuple[str, dict[str, str]]:
        """The URL of a request, and the header fields that sign it at Unix time `now`.

        No `key`: about the bucket itself. `payload`: the SHA-256 of the body, in hex. `amz`:
        further fields of S3, to be signed and sent; their names begin with `x-amz-`, in lower case.
        """
        path, encoded = self._place(key), _encoded(query or {})
        url = f"{self._origin}{path}?{encoded}" if encoded else f"{self._origin}{path}"
        if not self._secret_key:
            return url, {"Host": self._host, **(amz or {})}
        stamp = _stamp(now)
        scope = self._scope(stamp)
        headers = {"Host": self._host, "x-amz-date": stamp, "x-amz-content-sha256": payload}
        names = _SIGNED
        fields = f"host:{self._host}\nx-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n"
        if amz:
            headers |= amz
            names, fields = _canonical(headers)
        canonical = f"{method}\n{path}\n{encoded}\n{fields}\n{names}\n{payload}"
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={self._signature(stamp, scope, canonical)}"
        )
        return url, headers

    def presign(self, key: str, expires: int, now: float | None = None) -> str:
        """A URL that GETs an object for `expires` seconds from `now` on, at most seven days."""
        path = self._place(key)
        if not self._secret_key:
            return f"{self._origin}{path}"
        stamp = _stamp(now)
        scope = self._scope(stamp)
        encoded = _encoded(
            {
                "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                "X-Amz-Credential": f"{self._access_key}/{scope}",
                "X-Amz-Date": stamp,
                "X-Amz-Expires": str(expires),
                "X-Amz-SignedHeaders": _PRESIGNED,
            }
        )
        canonical = f"GET\n{path}\n{encoded}\nhost:{self._host}\n\n{_PRESIGNED}\n{UNSIGNED}"
        signature = self._signature(stamp, scope, canonical)
        return f"{self._origin}{path}?{encoded}&X-Amz-Signature={signature}"

    def _place(self, key: str) -> str:
        # The bucket itself has no final slash, but as a host it has nothing else.
        return self._path + quote(key, safe="/-_.~") if key else self._path.rstrip("/") or "/"

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self._region}/s3/aws4_request"

    def _signature(self, stamp: str, scope: str, canonical: str) -> str:
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
        return hmac.digest(self._key_of(stamp[:8]), to_sign.encode(), "sha256").hex()

    def _key_of(self, day: str) -> bytes:
        """The signing key: the same for a whole day (UTC)."""
        if day != self._day:
            key = f"AWS4{self._secret_key}".encode()
            for step in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._day, self._day_key = day, key
        return self._day_key


def _stamp(now: float | None) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))


def _canonical(headers: Mapping[str, str]) -> tuple[str, str]:
    """The names of the fields, and the fields, as they are signed."""
    fields = sorted((name.lower(), value) for name, value in headers.items())
    names = ";".join(name for name, _ in fields)
    return names, "".join(f"{name}:{value}\n" for name, value in fields)


def _encoded(query: Mapping[str, str]) -> str:
    return "&".join(
        f"{quote(name, safe='-_.~')}={quote(query[name], safe='-_.~')}" for name in sorted(query)
    )
