"""Gates of the paths that every byte takes, by time."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Final

import pytest

from bench.gates.conftest import Gate
from epoch._fastio import ChunkedDecoder, Pool, Sha256, fill, sha256_implementation

pytestmark = pytest.mark.benchmark(timer=time.thread_time)

KIB, MIB = 1 << 10, 1 << 20
PART: Final = 4 * MIB
DATA: Final = os.urandom(MIB)


@pytest.mark.skipif(sha256_implementation() == "portable", reason="no SHA instructions here")
@pytest.mark.parametrize("size", [16 * KIB, MIB], ids=lambda size: f"{size // KIB}KiB")
def test_digest(gate: Gate, size: int) -> None:
    """Beside OpenSSL's: the floor of `bench/push.py` hashes with our own code, and cannot tell."""
    data, own, other = DATA[:size], Sha256(), hashlib.sha256()
    gate(lambda: own.update(data), lambda: other.update(data), limit=1.05)


def test_part(gate: Gate) -> None:
    """A part lent, filled, hashed window by window and given back, beside a copy and the hash."""
    pool, digest, plain = Pool(PART), Sha256(), bytearray(PART)

    def path() -> None:
        part = pool.lend(PART, PART, MIB)
        assert part is not None
        while part.room:
            part.advance_hashed(fill(part, DATA), digest)
        part.release()

    def reference() -> None:
        with memoryview(plain) as view:
            for at in range(0, PART, MIB):
                view[at : at + MIB] = DATA
                digest.update(view[at : at + MIB])

    gate(path, reference, limit=1.03)


def test_chunked(gate: Gate) -> None:
    """Chunks of docker's size decoded where they lie, beside moving their bytes as far."""
    chunk = 32 * KIB
    wire = (b"%x\r\n%b\r\n" % (chunk, DATA[:chunk])) * (256 * KIB // chunk)
    step, before = chunk + 8, 6
    buffer = bytearray(wire)
    view = memoryview(buffer)
    moves = [
        (view[at * chunk :][:chunk], view[at * step + before :][:chunk])
        for at in range(len(wire) // step)
    ]

    def path() -> None:
        buffer[:] = wire
        ChunkedDecoder(1 << 40).feed(buffer, len(wire))

    def reference() -> None:
        buffer[:] = wire
        for to, source in moves:
            to[:] = source

    path()
    decoded = bytes(buffer)
    reference()
    assert buffer == decoded
    gate(path, reference, limit=1.04)
