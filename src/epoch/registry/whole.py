"""Objects that are read whole, for a request that has memory for them."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from epoch.oci.document import MAX_STORED
from epoch.store.base import ObjectTooLarge

Found = TypeVar("Found")
Reserve = Callable[[int], Awaitable[None]]

_SMALL: Final = 64 * 1024
"""Bytes that every request may hold. Nearly all manifests have fewer."""


async def read_whole(
    read: Callable[[int], Awaitable[Found | None]], reserve: Reserve | None
) -> Found | None:
    """What `read` finds, of which the most bytes that it may have are its argument. A large object
    is read only once the request has memory for it (`Request.reserve`), which costs it a second
    request to the store. `reserve`: None where nobody has to account for it."""
    if reserve is None:
        return await read(MAX_STORED)
    try:
        return await read(_SMALL)
    except ObjectTooLarge as error:
        if error.size > MAX_STORED:
            raise
        await reserve(error.size)
        return await read(error.size)
