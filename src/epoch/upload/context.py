"""What all uploads of a process share, and how one body is to be received."""

from __future__ import annotations

from dataclasses import dataclass

from epoch.config import UploadSettings
from epoch.store.base import Store
from epoch.upload.budget import Budget
from epoch.upload.hashing import Hasher, Hashing


@dataclass(frozen=True, slots=True)
class UploadContext:
    """The store, and the memory and the hashing that pushes compete for. One per process."""

    store: Store
    settings: UploadSettings
    budget: Budget
    hashing: Hashing


@dataclass(frozen=True, slots=True)
class BodyPlan:
    """How one body is received."""

    hasher: Hasher
    """Takes the bytes."""
    limit: int
    """The most bytes of the body."""
    part_size: int
    """Bytes of a full part."""
    keep_last: bool = True
    """Whether a full part that ends a body of known length is kept back, to be verified before it
    is shipped. A shorter one always is."""
