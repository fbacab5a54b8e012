"""Long listings in pieces, so that memory does not grow with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, TypeVar

Item = TypeVar("Item")

BATCH: Final = 1000
"""Items in one piece."""


async def batches(items: AsyncIterator[Item], size: int = BATCH) -> AsyncIterator[list[Item]]:
    """Returns the items in lists of `size`; the last one may be shorter."""
    batch: list[Item] = []
    async for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
