"""What we read of the XML that S3 answers with: flat lists, and single elements."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from epoch.store.s3_errors import NotS3


class Listing:
    """One page of a list of objects (ListObjectsV2). `NotS3`: `body` is something else.

    Keys are asked for by `encoding-type=url`, since XML cannot hold all of them; not every store
    heeds it.
    """

    def __init__(self, body: bytes) -> None:
        root = "ListBucketResult"
        self._tree = parse(body, root)
        self._space = self._tree.tag.removesuffix(root)
        self._encoded = self._text(self._tree, "EncodingType") == "url"
        self.next = self._text(self._tree, "NextContinuationToken")
        """What to ask for the next page with; empty after the last one.

        A page that breaks off without a word of how to go on must not be taken for the last one:
        what is not on the list is taken for garbage.
        """
        if self._text(self._tree, "IsTruncated") != "true":
            self.next = ""
        elif not self.next:
            raise NotS3

    def keys(self) -> list[str]:
        """The keys of the objects."""
        return [self._key(item) for item in self._items()]

    def objects(self) -> Iterator[tuple[str, int, str, float]]:
        """Key, size in bytes, etag (empty: none) and time of the last change (Unix seconds)."""
        for item in self._items():
            try:
                size = int(self._text(item, "Size"))
                modified = datetime.fromisoformat(self._text(item, "LastModified")).timestamp()
            except ValueError:
                raise NotS3 from None
            yield self._key(item), size, self._text(item, "ETag"), modified

    def _items(self) -> list[ElementTree.Element]:
        return self._tree.findall(f"{self._space}Contents")

    def _key(self, item: ElementTree.Element) -> str:
        key = self._text(item, "Key")
        if not key:
            raise NotS3
        return unquote_plus(key) if self._encoded else key

    def _text(self, element: ElementTree.Element, name: str) -> str:
        # Not by a loop over the children: these are in C.
        return element.findtext(self._space + name, "")


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
