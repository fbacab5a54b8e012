"""What we read of the XML that S3 answers with: flat lists, and single elements."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from epoch.store.s3.errors import NotS3


class Page:
    """One page of a list, of what begins with `prefix`. `NotS3`: `body` is something else.

    What is not on a list is taken for garbage, or for never pushed. So a list is believed only
    where all that it says of itself fits.
    """

    def __init__(self, body: bytes, root: str, prefix: str) -> None:
        self._tree = parse(body, root)
        self._space = self._tree.tag.removesuffix(root)
        self._encoded = self._text(self._tree, "EncodingType") == "url"
        self._prefix = prefix
        echo = self._tree.find(f"{self._space}Prefix")
        # Not every store encodes it where it encodes the keys.
        if echo is not None and prefix not in ((echo.text or ""), self._decoded(echo.text or "")):
            raise NotS3("the list is of another prefix")

    def _goes_on(self, token: str) -> bool:
        """Whether more follows, at `token`; `NotS3` where the page does not say it clearly."""
        truncated = self._text(self._tree, "IsTruncated")
        if (truncated == "true" and not token) or (token and not truncated):
            raise NotS3("the list breaks off")
        return truncated == "true"

    def _all(self, name: str) -> list[ElementTree.Element]:
        return self._tree.findall(self._space + name)

    def _key(self, item: ElementTree.Element) -> str:
        key = self._text(item, "Key")
        if self._encoded:
            key = unquote_plus(key)
        if not key or not key.startswith(self._prefix):
            raise NotS3("the list has what was not asked for")
        return key

    def _decoded(self, text: str) -> str:
        return unquote_plus(text) if self._encoded else text

    def _text(self, element: ElementTree.Element, name: str) -> str:
        # Not by a loop over the children: these are in C.
        return element.findtext(self._space + name, "")


class Listing(Page):
    """A page of a list of objects (ListObjectsV2).

    Keys are asked for by `encoding-type=url`, since XML cannot hold all of them; not every store
    heeds it.
    """

    def __init__(self, body: bytes, prefix: str) -> None:
        super().__init__(body, "ListBucketResult", prefix)
        self._items = self._all("Contents")
        self._check_count()
        token = self._text(self._tree, "NextContinuationToken")
        self.next = token if self._goes_on(token) else ""
        """What to ask for the next page with; empty after the last one."""

    def keys(self) -> list[str]:
        """The keys of the objects."""
        return [self._key(item) for item in self._items]

    def objects(self) -> Iterator[tuple[str, int, str, float]]:
        """Key, size in bytes, etag (empty: none) and time of the last change (Unix seconds)."""
        for item in self._items:
            try:
                size = int(self._text(item, "Size"))
                modified = datetime.fromisoformat(self._text(item, "LastModified")).timestamp()
            except ValueError:
                raise NotS3("the list has no size or no date where one belongs") from None
            yield self._key(item), size, self._text(item, "ETag"), modified

    def _check_count(self) -> None:
        """KeyCount, where it is told, counts the keys and the common prefixes; some stores leave
        the latter out (versitygw 2358, noobaa-core 7111, moto 2375; all mended since)."""
        count = self._text(self._tree, "KeyCount")
        keys = len(self._items)
        if count and count not in (str(keys), str(keys + len(self._all("CommonPrefixes")))):
            raise NotS3(f"the list has {keys} keys, where it says {count[:20]!r}")


class Uploads(Page):
    """A page of a list of multipart uploads in progress (ListMultipartUploads)."""

    def __init__(self, body: bytes, prefix: str) -> None:
        super().__init__(body, "ListMultipartUploadsResult", prefix)
        marker = self._text(self._tree, "NextKeyMarker")
        id_marker = self._text(self._tree, "NextUploadIdMarker")
        after = {"key-marker": self._decoded(marker), "upload-id-marker": id_marker}
        self.next = after if self._goes_on(marker) else {}
        """What to ask for the next page with; empty after the last one."""

    def uploads(self) -> Iterator[tuple[str, str, float]]:
        """Key, upload id, and when it began (Unix seconds)."""
        for item in self._all("Upload"):
            upload_id = self._text(item, "UploadId")
            try:
                began = datetime.fromisoformat(self._text(item, "Initiated")).timestamp()
            except ValueError:
                upload_id = ""
            if not upload_id:
                raise NotS3("the list has an upload without an id or a date")
            yield self._key(item), upload_id, began


def parse(body: bytes, root: str) -> ElementTree.Element:
    """The outermost element, which is to be `root`; else `NotS3`.

    White space before it keeps the connection open while a store completes an object.
    """
    try:
        # The store is ours; and expat limits what entities can grow to (since 2.4.1).
        tree = ElementTree.fromstring(body.lstrip())  # noqa: S314
    except ElementTree.ParseError:
        raise NotS3 from None
    if _local(tree.tag) != root:
        raise NotS3
    return tree


def child(tree: ElementTree.Element, name: str) -> str:
    """The text of the first child of that name; `NotS3` where there is none."""
    for element in tree:
        if _local(element.tag) == name and element.text:
            return element.text
    raise NotS3


@lru_cache(maxsize=64)
def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
