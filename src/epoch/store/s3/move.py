"""Renaming an object in a bucket: a copy within the store, then the removal of the source."""

from __future__ import annotations

from typing import Final

from epoch.config import MAX_PARTS
from epoch.fan_out import for_each
from epoch.store.base import Multipart, ObjectInfo, Part
from epoch.store.s3.calls import Calls, Request
from epoch.store.s3.errors import Failure, NotS3, misleading
from epoch.store.s3.signing import copy_source
from epoch.store.s3.xml import child, parse

_PART: Final = 512 * 1024 * 1024
_AT_ONCE: Final = 4


class Copier:
    """Copies objects of one bucket. `bucket`, `prefix`: of the settings; `patience`: seconds that
    one copy may take."""

    def __init__(self, calls: Calls, bucket: str, prefix: str, patience: float) -> None:
        self._calls = calls
        self._bucket = bucket
        self._prefix = prefix
        self._patience = patience

    async def copy(self, operation: str, source: ObjectInfo, target: str) -> bool:
        """Copy by CopyObject; False where the store refuses the size (S3: above 5 GiB). When it is
        True, an object of the source's size has been seen at `target`.

        Google Cloud Storage copies any size in this way, and has no other.
        """
        request = Request("PUT", target, amz={"x-amz-copy-source": self._source(source.key)})

        async def refuses(failure: Failure) -> bool | None:
            return False if failure.code in ("EntityTooLarge", "InvalidRequest") else None

        def read(body: bytes) -> bool:
            return bool(_etag_in("CopyObjectResult", body))

        async def attempt() -> bool:
            is_copied = await self._calls.call(
                operation, request, read, body=b"", settled=refuses, silence=self._patience
            )
            if is_copied:
                await self._calls.confirm(target, source.size)
            return is_copied

        return await self._calls.repeat(operation, attempt)

    async def copy_parts(self, operation: str, source: ObjectInfo, upload: Multipart) -> list[Part]:
        """Copy by UploadPartCopy, into `upload`."""
        step = max(_PART, -(-source.size // MAX_PARTS))

        async def copy(piece: tuple[int, int]) -> Part:
            number, start = piece
            stop = min(start + step, source.size)
            request = Request(
                "PUT",
                upload.key,
                {"partNumber": str(number), "uploadId": upload.upload_id},
                amz={
                    "x-amz-copy-source": self._source(source.key),
                    "x-amz-copy-source-range": f"bytes={start}-{stop - 1}",
                },
            )
            etag = await self._calls.call(
                operation,
                request,
                lambda body: _etag_in("CopyPartResult", body),
                body=b"",
                silence=self._patience,
            )
            return Part(number, stop - start, etag)

        return await for_each(copy, enumerate(range(0, source.size, step), 1), _AT_ONCE)

    def _source(self, key: str) -> str:
        return copy_source(self._bucket, self._prefix + key)


def _etag_in(root: str, body: bytes) -> str:
    """The etag of a copy. What follows a 200 may be an error (Amazon S3, "CopyObject")."""
    try:
        return child(parse(body, root), "ETag")
    except NotS3:
        raise misleading(body) from None
