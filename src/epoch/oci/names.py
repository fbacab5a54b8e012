"""Grammar of repository names and tags (OCI distribution-spec, "Pulling manifests")."""

import re
from typing import Final

from epoch.errors import Code, RegistryError

MAX_NAME: Final = 255
"""Characters. The spec's limit for host/name; we apply it to the name alone."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether `text` is a repository name."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether `text` is a tag."""
    return _TAG.fullmatch(text) is not None


def check_name(text: str) -> str:
    """Return `text`, or raise NAME_INVALID."""
    if not is_name(text):
        raise RegistryError(
            Code.NAME_INVALID,
            "invalid repository name: lower-case letters, digits and single separators, "
            f"components joined by '/', at most {MAX_NAME} characters",
        )
    return text
