"""What an S3 failure means: whether to try again, and what to tell the operator."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from typing import Final

import aiohttp

from epoch.store.base import ObjectTooLarge, StoreError, UploadLost

_TRANSIENT: Final = frozenset(
    {
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
    }
)
_THROTTLED: Final = frozenset(
    {
        "RequestLimitExceeded",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_DENIED: Final = frozenset({"403", "AccessDenied"})
"""What credentials that are good for something else get."""

_ADVICE: Final = {
    "NoSuchBucket": "the bucket does not exist: create it, or set EPOCH_S3_BUCKET",
    "InvalidBucketName": "that cannot be a bucket's name: set EPOCH_S3_BUCKET",
    "InvalidAccessKeyId": "the store does not know this access key: check EPOCH_S3_ACCESS_KEY",
    "SignatureDoesNotMatch": "the secret key is wrong: check EPOCH_S3_SECRET_KEY (and "
    "EPOCH_S3_REGION)",
    "AccessDenied": "the access key may not do this: check its policy and EPOCH_S3_ACCESS_KEY, "
    "EPOCH_S3_SECRET_KEY",
    "403": "the access key may not do this: check its policy (s3:GetObject and s3:ListBucket)",
    "RequestTimeTooSkewed": "this machine's clock differs from the store's: set it",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set EPOCH_S3_REGION",
    "IllegalLocationConstraintException": "the bucket is in another region: set EPOCH_S3_REGION",
    "ExpiredToken": "the credentials have expired: renew them and restart",
    "InvalidToken": "the credentials are not valid: renew them and restart",
    "NoSuchUpload": "the upload was aborted, completed or has expired",
    "InvalidPart": "the store has lost a part of the upload",
    "InvalidPartOrder": "the parts are not in order",
    "EntityTooSmall": "a part is below the store's minimum size",
    "EntityTooLarge": "the object or part is above the store's maximum size",
    "QuotaExceeded": "the bucket's quota is used up: raise it or free some space",
    "XMinioStorageFull": "the store is full: free some space",
    "NotImplemented": "the store does not offer this operation",
}
_LOST: Final = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder"})
_HOPELESS: Final = frozenset({"EntityTooSmall", "EntityTooLarge", "NotImplemented"})
_FINAL: Final = frozenset({501, 507})
"""Not Implemented, Insufficient Storage: the store works, and will say the same again."""

_ELSEWHERE: Final = "the bucket lives at another address: set EPOCH_S3_ENDPOINT and EPOCH_S3_REGION"

_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")
"""In an error body (Amazon S3, "REST error responses")."""

_SOON: Final = 2.0
_AFTER_REPAIR: Final = 30.0
"""Seconds after which asking again makes sense: when it may pass, when somebody must repair it."""


class Refused(Exception):
    """The store answered, and not with success. `code`: S3's error code, or empty."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code


class NotS3(Exception):
    """The store's answer is not what an S3 store would say. The argument: what is wrong with it, in
    our own words, or nothing."""


class Unconfirmed(Exception):
    """The store said that an object is stored, but does not show it as it was written."""


class TooLarge(Exception):
    """The object has more bytes than were wanted."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def refused(status: int, body: bytes) -> Refused:
    """What an answer with that status and that body means."""
    code = _CODE.search(body)
    return Refused(status, code[1].decode() if code else "")


def misleading(body: bytes) -> Exception:
    """What a status of success means with a body that does not belong there: the error that it
    names (Amazon S3, "CopyObject": "a 200 OK response can contain either a success or an error"),
    else something that is no S3 store."""
    error = refused(200, body)
    return error if error.code else NotS3("its body is not the one that belongs there")


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt, understood.

    `code`: S3's error code (the status where there is none, empty where the request got no
    answer). `transient`: the same request may succeed. `throttled`: and it should wait longer.
    `lost`: the request may have been carried out all the same.
    """

    code: str
    text: str
    transient: bool
    throttled: bool = False
    lost: bool = False
    size: int | None = None
    """Of an object that has more bytes than were wanted."""

    @property
    def missing(self) -> bool:
        """There is no such object (a missing bucket is something else)."""
        return self.code in _MISSING

    def error(self, operation: str) -> StoreError:
        """The error that the rest of Epoch gets to see."""
        if self.code in _LOST:
            return UploadLost(f"{operation}: {self.text}")
        if self.size is not None:
            return ObjectTooLarge(f"{operation}: {self.text}", self.size)
        retry_after: float | None = _SOON if self.transient else _AFTER_REPAIR
        if self.code in _HOPELESS:
            retry_after = None
        denied = self.code in _DENIED
        return StoreError(f"{operation}: {self.text}", retry_after=retry_after, denied=denied)


def understand(error: Exception) -> Failure:
    """Understand what an attempt raised. Never puts a library's text, which may quote a signed
    URL or a header, into ours."""
    if isinstance(error, Refused):
        return _answered(error)
    if isinstance(error, TooLarge):
        text = f"{error.size} bytes, more than were expected"
        return Failure("EntityTooLarge", text, transient=False, size=error.size)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return Failure("", "the store did not answer in time", transient=True, lost=True)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        text = (
            "the store's certificate is not trusted: check EPOCH_S3_ENDPOINT, or name the "
            "certificate of its authority in SSL_CERT_FILE"
        )
        return Failure("", text, transient=False)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        text = "no TLS with the store: check EPOCH_S3_ENDPOINT and EPOCH_S3_SECURE"
        return Failure("", text, transient=False)
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        text = "the proxy does not lead to the store: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        return Failure("", text, transient=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        text = "the store's host name is not found: check EPOCH_S3_ENDPOINT"
        return Failure("", text, transient=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error.strerror or "no route"
        text = f"cannot connect to the store ({reason}): check EPOCH_S3_ENDPOINT"
        return Failure("", text, transient=True)
    if isinstance(error, aiohttp.ClientResponseError | NotS3):
        text = "the answer is not that of an S3 store"
        if isinstance(error, NotS3) and error.args:
            text += f": {error.args[0]}"
        return Failure("", text, transient=True, lost=True)
    if isinstance(error, Unconfirmed):
        text = "the store took the object, but does not show it as it was written"
        return Failure("", text, transient=True, lost=True)
    if isinstance(error, aiohttp.ClientError | OSError):
        return Failure("", "the connection to the store broke", transient=True, lost=True)
    return Failure("", f"unexpected {type(error).__name__}", transient=False, lost=True)


def _answered(error: Refused) -> Failure:
    status = error.status
    code = error.code or str(status)
    throttled = status == 429 or code in _THROTTLED
    # 200: the error is in the body of a success, so only its code says what it is.
    failing = status == 200 or (status >= 500 and status not in _FINAL)
    known = code in _ADVICE or code in _MISSING
    transient = throttled or code in _TRANSIENT or (failing and not known)
    advice = _ADVICE.get(code)
    if advice is None and 300 <= status < 400:
        advice = _ELSEWHERE
    if advice is None:
        advice = "the store is failing" if transient else "the store refused the request"
    label = f"{code} ({status})" if error.code else f"status {status}"
    lost = transient and not throttled
    return Failure(code, f"{label}: {advice}", transient, throttled, lost)
