"""The table of OCI errors: code, HTTP status, message.

Source: OCI distribution-spec, "Error Codes". Handlers raise `RegistryError`; `epoch.http` renders
it, in one place, as `{"errors": [{"code", "message", "detail"}]}`.
"""

from enum import Enum
from typing import Any


class Code(Enum):
    """One OCI error code: its default HTTP status and its default message."""

    BLOB_UNKNOWN = (404, "blob unknown to this registry")
    BLOB_UPLOAD_INVALID = (400, "blob upload invalid")
    BLOB_UPLOAD_UNKNOWN = (404, "blob upload unknown to this registry")
    DIGEST_INVALID = (400, "the digest does not match the content, or is not a digest")
    MANIFEST_BLOB_UNKNOWN = (404, "the manifest references a manifest or blob unknown here")
    MANIFEST_INVALID = (400, "manifest invalid")
    MANIFEST_UNKNOWN = (404, "manifest unknown to this registry")
    NAME_INVALID = (400, "invalid repository name")
    NAME_UNKNOWN = (404, "repository name not known to this registry")
    SIZE_INVALID = (400, "the length does not match the content")
    # Not the words of the distribution project: Docker (as of 20.10) takes an error of just those,
    # without a detail, for one to try again, and a refused push ends after 50 s of attempts.
    UNAUTHORIZED = (401, "authentication is required")
    DENIED = (403, "access to this is denied")
    UNSUPPORTED = (405, "the operation is unsupported")
    TOOMANYREQUESTS = (429, "too many requests")
    # Not in the spec's table: HTTP that is malformed, and what is not the client's fault.
    BAD_REQUEST = (400, "malformed HTTP request")
    UNKNOWN = (500, "unknown error")
    UNAVAILABLE = (503, "the registry cannot serve this request now")

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message


class RegistryError(Exception):
    """What the client gets to see: an OCI error body with an HTTP status.

    `status` overrides the code's own (413 for a SIZE_INVALID manifest, 416 for a
    BLOB_UPLOAD_INVALID chunk, ...); `headers` are sent along (`Retry-After`, `Range`, `Allow`).
    The text must not hold a secret: it is sent and logged.
    """

    def __init__(
        self,
        code: Code,
        message: str | None = None,
        *,
        detail: Any = None,
        status: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message or code.message)
        self.code = code
        self.message = message or code.message
        self.detail = detail
        self.status = status or code.status
        self.headers = headers
