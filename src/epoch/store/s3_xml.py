"""What we read of the XML that S3 answers with: flat lists, and single elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from epoch.store.s3_errors import NotS3


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list: its items, and the elements beside them, by the names of elements."""

    items: list[dict[str, str]]
    about: Mapping[str, str]

    @property
    def truncated(self) -> bool:
        """Whether there is another page."""
        return self.about.get("IsTruncated") == "true"


def parse_list(body: bytes, root: str, item: str) -> Listing:
    """Read a list whose outermost element is `root` and whose items are the elements `item`.

    Keys were asked for by `encoding-type=url`: XML cannot hold all of them; not every store heeds
    it. `NotS3`: it is something else.
    """
    tree = parse(body, root)
    items: list[dict[str, str]] = []
    about: dict[str, str] = {}
    for element in tree:
        name = _local(element.tag)
        if name == item:
            items.append({_local(each.tag): each.text or "" for each in element})
        else:
            about[name] = element.text or ""
    if about.get("EncodingType") == "url":
        for found in items:
            found["Key"] = unquote_plus(found["Key"])
    return Listing(items, about)


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
