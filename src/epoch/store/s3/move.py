"""Renaming an object in a bucket: a copy within the store, then the removal of the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from epoch.fan_out import for_each
from epoch.store.base import Multipart, ObjectInfo, Part
from epoch.store.s3.calls import Calls
from epoch.store.s3.errors import NotS3
from epoch.store.s3.retry import Failed

_PART: Final = 512 * 1024 * 1024
_AT_ONCE: Final = 4
_MAX_PARTS: Final = 10_000


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
        parameters = {"Key": self._prefix + target, "CopySource": self._source(source.key)}

        async def attempt() -> bool:
            try:
                await self._calls.library(
                    "copy_object", parameters, _etag_in("CopyObjectResult"), silence=self._patience
                )
            except Failed as failed:
                if failed.failure.code in ("EntityTooLarge", "InvalidRequest"):
                    return False
                raise
            await self._calls.confirm(target, source.size)
            return True

        return await self._calls.repeat(operation, attempt)

    async def copy_parts(self, operation: str, source: ObjectInfo, upload: Multipart) -> list[Part]:
        """Copy by UploadPartCopy, into `upload`."""
        step = max(_PART, -(-source.size // _MAX_PARTS))

        async def copy(piece: tuple[int, int]) -> Part:
            number, start = piece
            stop = min(start + step, source.size)
            parameters: dict[str, Any] = {
                "Key": self._prefix + upload.key,
                "UploadId": upload.upload_id,
                "PartNumber": number,
                "CopySource": self._source(source.key),
                "CopySourceRange": f"bytes={start}-{stop - 1}",
            }
            try:
                etag = await self._calls.library(
                    "upload_part_copy",
                    parameters,
                    _etag_in("CopyPartResult"),
                    silence=self._patience,
                )
            except Failed as failed:
                raise failed.failure.error(operation) from failed
            return Part(number, stop - start, etag)

        return await for_each(copy, enumerate(range(0, source.size, step), 1), _AT_ONCE)

    def _source(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}


def _etag_in(result: str) -> Callable[[Mapping[str, Any]], str]:
    """Read the etag of a copy out of that element. botocore takes an empty answer, and a page of
    HTML that is well-formed, for one without any content."""

    def read(answer: Mapping[str, Any]) -> str:
        etag = answer.get(result, {}).get("ETag")
        if not isinstance(etag, str) or not etag:
            raise NotS3(f"it lacks {result}")
        return etag

    return read
