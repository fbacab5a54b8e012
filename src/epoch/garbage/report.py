"""What a collection found and removed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Report:
    """Counts of one collection: first what is there, then what was removed, or would be."""

    manifests: int = 0
    """Objects below `manifests/`: one for each digest and each tag."""
    blobs: int = 0
    blob_bytes: int = 0
    removed_blobs: int = 0
    removed_bytes: int = 0
    """Of the removed blobs."""
    spared: int = 0
    """Blobs that were about to be removed, and were then named, pinned or pushed again."""
    sessions: int = 0
    """Upload sessions that had expired."""
    multiparts: int = 0
    """Multipart uploads that nobody goes on with."""
    entries: int = 0
    """Index entries and markers whose manifest or repository is gone."""
    notes: int = 0
    """Old pins and announcements of the collection's own."""
