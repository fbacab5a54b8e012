"""Where the object of a key lies in the directory: at the key itself, with one exception.

A repository `x/t.json` is a directory and the tag `t` of a repository `x` is a file `x/t.json`: in
a bucket both fit, in a directory they would have one name. So a directory that ends in `.json` in
the key ends in `+json` on the disk, where no key of the registry has a `+`, and the other way
round, so that every key has one place and every place one key. The length stays: 255 bytes is all
that a file system takes.
"""

from __future__ import annotations

import re
from typing import Final

from epoch.store.base import Multipart, StoreError

TMP: Final = "_tmp"
"""Objects that are being written."""
MULTIPART: Final = "_multipart"
"""Multipart uploads: a file `<upload id>` below the folder of the key's name."""
IDENTITY: Final = "_identity"
"""See `directory_root.py`."""
INTERNAL: Final = frozenset({TMP, MULTIPART, IDENTITY})
"""Names at the top that no key may begin with."""

UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

_ODD: Final = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)|\0")
_KEY_END: Final = ".json"
_DISK_END: Final = "+json"


def path_of(key: str) -> str:
    """The path of an object, from the root; `StoreError` for what is no object key."""
    # Keys come validated; this is the last line of defence against leaving the root.
    if _ODD.search(key) is not None or key.partition("/")[0] in INTERNAL:
        raise StoreError(f"not an object key: {key!r}", retry_after=None)
    folder, slash, name = key.rpartition("/")
    return folder_path(folder + slash) + name


def upload_path(upload: Multipart) -> str:
    """The path of a multipart upload, from the root; `StoreError` for what is none."""
    path_of(upload.key)
    if UPLOAD_ID.fullmatch(upload.upload_id) is None:
        raise StoreError(f"not an upload of {upload.key}", retry_after=None)
    return f"{MULTIPART}/{folder_path(upload.key + '/')}{upload.upload_id}"


def folder_path(folder: str) -> str:
    """The path of a folder, which is empty or ends in a slash, from its key; and its key from its
    path."""
    if f"{_KEY_END}/" not in folder and f"{_DISK_END}/" not in folder:
        return folder
    return "".join(swapped(name) + "/" for name in folder.split("/")[:-1])


def swapped(name: str) -> str:
    """The name on the disk of a directory with that name in the key; and its name in the key."""
    if name.endswith(_KEY_END):
        return name.removesuffix(_KEY_END) + _DISK_END
    if name.endswith(_DISK_END):
        return name.removesuffix(_DISK_END) + _KEY_END
    return name
