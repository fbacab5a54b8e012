"""Renaming an object in a bucket: a copy within the store, then the removal of the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from epoch.concurrently import for_each
from epoch.store.base import Multipart, ObjectInfo, Part
from epoch.store.s3_retry import Failed

if TYPE_CHECKING:
    from epoch.store.s3_calls import Calls

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

    async def copy(self, operation: str, source: str, target: str) -> bool:
        """Copy by CopyObject; False where the store refuses the size (S3: above 5 GiB).

        Google Cloud Storage copies any size in this way, and has no other.
        """
        try:
            await self._calls.attempt_library(
                "copy_object",
                {"Key": self._prefix + target, "CopySource": self._source(source)},
                silence=self._patience,
            )
        except Failed as failed:
            if failed.failure.code in ("EntityTooLarge", "InvalidRequest"):
                return False
            raise failed.failure.error(operation) from failed
        return True

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
            answer = await self._calls.library(
                operation, "upload_part_copy", parameters, silence=self._patience
            )
            return Part(number, stop - start, answer["CopyPartResult"]["ETag"])

        return await for_each(copy, enumerate(range(0, source.size, step), 1), _AT_ONCE)

    def _source(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}
