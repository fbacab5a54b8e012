"""The store interface: what the rest of Epoch may ask of a bucket or of a directory.

Keys are object keys without the configured prefix (`blobs/sha256/<hex>`); each store puts its
own prefix or folder before them. Every method raises `StoreError` when the store has failed for
good, after its own retries, and never a library's exception.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer


class StoreError(Exception):
    """The store failed for good. The text names the operation and what to do, never a secret.

    `retry_after`: seconds after which asking again makes sense, or None where it never does.
    `denied`: the store works, and does not let us do this (credentials, permissions, read-only).
    """

    def __init__(
        self, message: str, *, retry_after: float | None = 1.0, denied: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.denied = denied


class UploadLost(StoreError):
    """The multipart upload, or a part of it, is not in the store any more: what was uploaded has to
    be uploaded again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=None)


class ObjectTooLarge(StoreError):
    """The object has more bytes than were to be read: `size`."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message, retry_after=None)
        self.size = size


def replaced(key: str) -> StoreError:
    """The error where another object lies at `key` than the one that was being read."""
    return StoreError(f"read {key}: the object was replaced meanwhile", retry_after=None)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object: key (without prefix), bytes, opaque etag, mtime in Unix seconds.

    The mtime is that of the object's appearance at its key, or of the beginning of the multipart
    upload that it was made of (Amazon S3, "System-defined object metadata").
    """

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Multipart:
    """A multipart upload in progress. Both fields are plain text, so another process can go on."""

    key: str
    upload_id: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has acknowledged: number (1..10,000), size in bytes, opaque etag."""

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """The bytes of an open object that nobody has to look at here.

    `first`: those that have been received. `descriptor`: the non-blocking socket from which all
    others can be received, and not one more, or -1 where there are none; it stays the reader's.
    `stall`: seconds that may pass until the next bytes come.
    """

    first: bytes
    descriptor: int
    stall: float


class ObjectReader(Protocol):
    """An open object (or a range of it), read once, front to back."""

    @property
    def info(self) -> ObjectInfo:
        """The whole object, whatever the range."""

    def fileno(self) -> int | None:
        """A file descriptor positioned anywhere, for sendfile(2), or None where there is none."""

    def take_socket(self) -> OpenSocket | None:
        """To be used once, instead of iterating; None where there is none, or where the bytes that
        it gives would have to be decoded, or where it is not worth it: then iterate."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes of the range; a connection cut short raises `StoreError`, never a clean end."""


class Store(Protocol):
    """A place for objects. One contract suite (`tests/contract`) runs over every implementation."""

    @property
    def description(self) -> str:
        """For the log line at start: what and where, without secrets."""

    @property
    def min_part_size(self) -> int:
        """Bytes below which a part that is not the last one is refused."""

    async def check(self) -> None:
        """Prove at start that the store answers and the credentials fit; else `StoreError`."""

    async def head(self, key: str) -> ObjectInfo | None:
        """The object at `key`, or None."""

    async def get(self, key: str, limit: int) -> bytes | None:
        """The whole object, or None where there is none. `ObjectTooLarge` above `limit` bytes."""

    async def fetch(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """The same, and what is known about it."""

    def open(
        self, key: str, start: int = 0, stop: int | None = None, *, etag: str = ""
    ) -> AbstractAsyncContextManager[ObjectReader | None]:
        """Open bytes `start` to `stop` (exclusive; None: to the end); None where no object is.

        The caller has checked the range against the object's size. `etag`: of the object that is
        meant; `StoreError` where another one is there now. Empty: any.
        """

    async def put(self, key: str, data: Buffer) -> None:
        """Store `data` whole at `key`, replacing what is there, in one step for all readers."""

    async def put_new(self, key: str, data: Buffer) -> bool:
        """Store `data` at `key` if nothing is there: of several writers one gets True.

        Their data must differ: an answer that was lost is recognised by them. Some stores know no
        such condition and ignore it (Google Cloud Storage); there it holds only while no two
        writers are at it in the same instant.
        """

    async def make_durable(self, keys: Sequence[str]) -> None:
        """Return once these objects, as they are visible now, outlive a power cut.

        To be called before a client is told that something is stored which was found and not just
        written: whoever wrote it may have died before it was durable. What this store itself
        returns from is durable already; so is all that can be seen, where the store is a bucket.
        """

    async def delete(self, key: str) -> None:
        """Remove the object; that there is none is no error."""

    def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, after the key `after`, in the store's order.

        That is bytewise UTF-8, but for SeaweedFS, which orders component by component: there
        `a/b` comes before `a-b`. Keys that differ in their last component only are in bytewise
        order everywhere. `after`: a key that a list gave, or one beside those; SeaweedFS also
        leaves out what lies below `after`, where it is a folder too.
        """

    def list_folder(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object right below `prefix`, which ends in a slash: those whose key has no further
        one. In the store's order, which is that of `list`."""

    async def names(self, prefix: str) -> Sequence[str]:
        """The keys of the same objects without `prefix`, in any order: all that a list of tags
        needs, for a third of the time."""

    async def create_multipart(self, key: str) -> Multipart:
        """Begin a multipart upload; nothing is visible at `key` until it is completed."""

    async def put_part(self, upload: Multipart, number: int, offset: int, data: Buffer) -> Part:
        """Store `data` as part `number`, whose first byte is byte `offset` of the object.

        Sent again from `data` on a transient failure. When this returns, raises or is cancelled,
        nothing can still send from `data`, and no view of it is left.
        """

    async def sync_parts(self, upload: Multipart) -> None:
        """Return once all parts that were acknowledged outlive a power cut.

        To be called before a client is told that it need not send their bytes again: else only
        `complete_multipart` makes them durable.
        """

    async def complete_multipart(self, upload: Multipart, parts: Sequence[Part]) -> None:
        """Make the object visible, made of `parts` in that order. Safe to repeat: a lost answer
        is reconciled by looking at the object."""

    async def abort_multipart(self, upload: Multipart) -> None:
        """Give up an upload and free its parts; that there is none is no error. `StoreError` where
        it could not be freed: it is still listed."""

    def list_multiparts(self, prefix: str) -> AsyncIterator[tuple[Multipart, float]]:
        """Every upload in progress whose key starts with `prefix`, and its start (Unix seconds)."""

    async def presign(self, key: str, expires: int) -> str | None:
        """A URL that GETs `key` without us for `expires` seconds, or None where there is none."""

    async def move(self, source: str, target: str, size: int) -> None:
        """Rename an object of `size` bytes, without its bytes passing through this process.

        `StoreError` where the source has another size. Repeating a move whose source is gone is no
        error where an object of `size` bytes is at the target: whether it is the same must follow
        from the target's key (that of a blob is the digest of what it holds).
        """

    async def close(self) -> None:
        """Close connections and files. Nothing may be under way."""
