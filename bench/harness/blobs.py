"""The blobs that `c/load.c` sends, and their digests: a block of 1 MiB repeated, then a number."""

import hashlib
from functools import cache
from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
_TAIL: Final = 8
_MASK: Final = (1 << 64) - 1


@cache
def block() -> bytes:
    """The block: xorshift64 from the seed of `load.c`, little-endian."""
    words = []
    x = 88172645463325252
    for _ in range(MIB // 8):
        x ^= (x << 13) & _MASK
        x ^= x >> 7
        x ^= (x << 17) & _MASK
        words.append(x.to_bytes(8, "little"))
    return b"".join(words)


@cache
def _all_but_the_tail(size: int) -> "hashlib._Hash":
    digest = hashlib.sha256()
    blocks, rest = divmod(size - _TAIL, MIB)
    for _ in range(blocks):
        digest.update(block())
    digest.update(block()[:rest])
    return digest


def digest(size: int, number: int) -> str:
    """The digest of blob `number` of `size` bytes: its last 8 bytes are the number, big-endian.

    The first call for a size takes half a second per GiB, all others nothing.
    """
    running = _all_but_the_tail(size).copy()
    running.update(number.to_bytes(_TAIL, "big"))
    return f"sha256:{running.hexdigest()}"
