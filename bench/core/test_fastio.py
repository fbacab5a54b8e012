"""The core paths of `epoch._fastio`, each alone, in this process: digest, part, pool, chunks.

The throughput of one row is its bytes (`extra_info`) over its time; the table is in time alone.
"""

import hashlib
import os
from typing import Any

import pytest

from epoch._fastio import ChunkedDecoder, Pool, Sha256, fill

KIB, MIB = 1 << 10, 1 << 20
PART = 16 * MIB
DATA = os.urandom(MIB)

SIZES = pytest.mark.parametrize(
    "size", [256, 4 * KIB, 64 * KIB, 512 * KIB], ids=lambda size: f"{size}B"
)


@SIZES
@pytest.mark.benchmark(group="digest update")
def test_digest_update(benchmark: Any, size: int) -> None:
    """The running digest, fed with what one receive brings."""
    benchmark.extra_info["bytes"] = size
    benchmark(Sha256().update, DATA[:size])


@SIZES
@pytest.mark.benchmark(group="digest update")
def test_digest_update_of_openssl(benchmark: Any, size: int) -> None:
    """The same by hashlib, to be measured against."""
    benchmark.extra_info["bytes"] = size
    benchmark(hashlib.sha256().update, DATA[:size])


@pytest.fixture
def pool() -> Pool:
    """A pool whose one part is mapped and touched, so that no page fault is measured."""
    warm = Pool(PART)
    _fill_part(warm, MIB, Sha256())
    return warm


def _fill_part(pool: Pool, window: int, digest: Sha256) -> None:
    part = pool.lend(PART, PART, window)
    assert part is not None
    while part.room:
        part.advance_hashed(fill(part, DATA), digest)
    part.release()


def _walk_part(pool: Pool, window: int) -> None:
    part = pool.lend(PART, PART, window)
    assert part is not None
    while part.room:
        part.advance(window)
    part.release()


WINDOWS = pytest.mark.parametrize(
    "window", [64 * KIB, 256 * KIB, 512 * KIB, MIB], ids=lambda window: f"{window // KIB}KiB"
)


@WINDOWS
@pytest.mark.benchmark(group="part fill")
def test_part_fill(benchmark: Any, pool: Pool, window: int) -> None:
    """A part of 16 MiB, window by window: copied into (the kernel's share) and hashed."""
    benchmark.extra_info["bytes"] = PART
    benchmark(_fill_part, pool, window, Sha256())
    assert pool.lent == 0


@WINDOWS
@pytest.mark.benchmark(group="part bookkeeping")
def test_part_bookkeeping(benchmark: Any, pool: Pool, window: int) -> None:
    """The same without touching a byte: what the part and the pool cost by themselves."""
    benchmark.extra_info["bytes"] = PART
    benchmark(_walk_part, pool, window)
    assert pool.lent == 0


def _chunked(chunk: int, size: int) -> bytes:
    one = b"%x\r\n%s\r\n" % (chunk, DATA[:chunk])
    return one * (size // chunk)


@pytest.mark.parametrize("chunk", [1 * KIB, 8 * KIB, 32 * KIB, 256 * KIB], ids=lambda c: f"{c}B")
@pytest.mark.benchmark(group="chunked decode")
def test_chunked_decode(benchmark: Any, chunk: int) -> None:
    """1 MiB of body in chunks, in receives of 256 KiB, decoded where it lies."""
    wire = _chunked(chunk, MIB)
    pieces = [wire[at : at + 256 * KIB] for at in range(0, len(wire), 256 * KIB)]
    benchmark.extra_info["bytes"] = MIB

    def fresh() -> tuple[tuple[ChunkedDecoder, list[bytearray]], dict[str, Any]]:
        return (ChunkedDecoder(1 << 40), [bytearray(piece) for piece in pieces]), {}

    def decode(decoder: ChunkedDecoder, buffers: list[bytearray]) -> None:
        for buffer in buffers:
            decoder.feed(buffer, len(buffer))
        assert decoder.total == MIB

    benchmark.pedantic(decode, setup=fresh, rounds=300)
