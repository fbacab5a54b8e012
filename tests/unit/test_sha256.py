"""The running SHA-256: published vectors, every implementation against hashlib, its state."""

from __future__ import annotations

import hashlib
import random
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epoch._fastio import (
    Pool,
    Sha256,
    fill,
    hash_seconds,
    sha256_blocks,
    sha256_implementation,
)

IMPLEMENTATIONS = [
    name
    for name in ("portable", "sha-ni", "armv8")
    if sha256_blocks(name, bytes(32), b"") is not None
]
INITIAL = bytes.fromhex(
    "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"
)  # FIPS 180-4, section 5.3.3

VECTORS = [
    # FIPS 180-2, appendix B, and NIST's "SHA256 examples with intermediate values".
    (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    (
        b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
        b"hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
    ),
    (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    # NIST's "additional vectors": lengths around a block, and long runs of zeros.
    (b"\xbd", "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b"),
    (b"\xc9\x8c\x8e\x55", "7abc22c0ae5af26ce93dbb94433a0e0b2e119d014f8e7f65bd56c61ccccd9504"),
    (bytes(55), "02779466cdec163811d078815c633f21901413081449002f24aa3e80f0b88ef7"),
    (bytes(56), "d4817aa5497628e7c77e6b606107042bbba3130888c5f47a375e6179be789fbb"),
    (bytes(57), "65a16cb7861335d5ace3c60718b5052e44660726da4cd13bb745381b235a1785"),
    (bytes(64), "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"),
    (bytes(1000), "541b3e9daa09b20bf85fa273e5cbd3e80185aa4ec298e765db87742b70138a53"),
    (b"A" * 1000, "c2e686823489ced2017f6059b8b239318b6364f6dcd835d0a519105a1eadd6e4"),
    (b"U" * 1005, "f4d62ddec0f3dd90ea1380fa16a5ff8dc4c54b21740650f24afc4120903552b0"),
    (bytes(1_000_000), "d29751f2649b32ff572b5e0a9f541ea660a50f94ff0beedfb0b692b924cc8025"),
]


@pytest.mark.parametrize(
    ("message", "expected"), VECTORS, ids=lambda v: f"{len(v)}B" if isinstance(v, bytes) else ""
)
def test_published_vectors(message: bytes, expected: str) -> None:
    running = Sha256()
    running.update(message)
    assert running.hexdigest() == expected
    assert running.digest() == bytes.fromhex(expected)
    assert running.length == len(message)


def _pad(length: int) -> bytes:
    """FIPS 180-4, section 5.1.1, for a message of `length` bytes."""
    return b"\x80" + bytes((55 - length) % 64) + struct.pack(">Q", length * 8)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_each_implementation_gives_the_published_vectors(implementation: str) -> None:
    for message, expected in VECTORS:
        padded = message + _pad(len(message))
        assert sha256_blocks(implementation, INITIAL, padded) == bytes.fromhex(expected)


def test_the_chosen_implementation_is_the_best_there_is() -> None:
    assert sha256_implementation() == IMPLEMENTATIONS[-1]


def test_an_implementation_that_is_not_there_is_none() -> None:
    assert sha256_blocks("avx-1024", INITIAL, bytes(64)) is None


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_two_hundred_thousand_random_blocks(implementation: str) -> None:
    """Random chaining values and blocks: each implementation is the portable one, and that one is
    hashlib where hashlib can tell (from the initial value)."""
    random_bytes = random.Random(180_4).randbytes
    state, data = INITIAL, random_bytes(64 * 64)
    for at in range(20_000):
        blocks = data[64 * (at % 53) : 64 * (at % 53) + 64 * (at % 11)]
        ours = sha256_blocks(implementation, state, blocks)
        if implementation == "portable":
            if state is INITIAL:
                padded = blocks + _pad(len(blocks))
                whole = sha256_blocks("portable", INITIAL, padded)
                assert whole == hashlib.sha256(blocks).digest()
        else:
            assert ours == sha256_blocks("portable", state, blocks)
        assert ours is not None
        state = INITIAL if at % 7 == 0 else ours
        if at % 100 == 0:
            data = random_bytes(64 * 64)


def test_two_hundred_thousand_small_updates_against_hashlib() -> None:
    """Every length of an update at every offset in a block, many times over, in one message."""
    source = random.Random(2026)
    data = source.randbytes(4096)
    running, reference = Sha256(), hashlib.sha256()
    for at in range(200_000):
        start = source.randrange(4096 - 200)
        piece = data[start : start + at % 197]
        running.update(piece)
        reference.update(piece)
        if at % 50 == 0:
            assert running.digest() == reference.digest(), at
    assert running.digest() == reference.digest()


@given(st.lists(st.binary(max_size=5000), max_size=12))
def test_random_splits_against_hashlib(pieces: list[bytes]) -> None:
    running = Sha256()
    for piece in pieces:
        running.update(piece)
    whole = b"".join(pieces)
    assert running.length == len(whole)
    assert running.digest() == hashlib.sha256(whole).digest()


@pytest.mark.parametrize("size", [2047, 2048, 2049, 65536, 1 << 20])
def test_around_the_size_from_which_the_gil_is_released(size: int) -> None:
    data = random.Random(size).randbytes(size + 3)
    for offset in range(3):  # unaligned too
        running = Sha256()
        running.update(memoryview(data)[offset : offset + size])
        assert running.digest() == hashlib.sha256(data[offset : offset + size]).digest()


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_digest_does_not_disturb_the_running_one(first: bytes, second: bytes) -> None:
    running = Sha256()
    running.update(first)
    assert running.digest() == running.digest() == hashlib.sha256(first).digest()
    running.update(second)
    assert running.digest() == hashlib.sha256(first + second).digest()


@pytest.mark.parametrize("offset", range(64))
def test_export_and_resume_at_every_offset(offset: int) -> None:
    data = random.Random(offset).randbytes(64 * 3 + offset)
    running = Sha256()
    running.update(data)
    state = running.export_state()
    assert len(state) == 8 + 32 + offset
    for rest in (b"", b"x", bytes(63 - offset), bytes(64 - offset), bytes(1000)):
        resumed = Sha256(state)
        assert resumed.length == len(data)
        assert resumed.export_state() == state
        resumed.update(rest)
        assert resumed.digest() == hashlib.sha256(data + rest).digest()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(prefix=st.binary(max_size=400))
def test_a_state_is_big_endian_and_the_same_whichever_implementation_made_it(
    implementation: str, prefix: bytes
) -> None:
    running = Sha256()
    running.update(prefix)
    whole = len(prefix) // 64 * 64
    chain = sha256_blocks(implementation, INITIAL, prefix[:whole])
    assert chain is not None
    assert running.export_state() == len(prefix).to_bytes(8, "big") + chain + prefix[whole:]


def test_the_state_of_nothing_is_the_standard_initial_value() -> None:
    assert Sha256().export_state() == bytes(8) + INITIAL


@pytest.mark.parametrize(
    "state",
    [
        b"",
        bytes(39),
        bytes(41),  # one pending byte, and a length of 0
        (1).to_bytes(8, "big") + bytes(32),  # no pending byte, and a length of 1
        (64).to_bytes(8, "big") + bytes(32 + 64),
        (65).to_bytes(8, "big") + bytes(32 + 65),
        (1 << 61).to_bytes(8, "big") + bytes(32),  # 2**64 bits: not a message of SHA-256
        b"\xff" * 8 + bytes(32 + 63),
    ],
    ids=len,
)
def test_what_is_no_state_is_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="not an exported SHA-256 state"):
        Sha256(state)


@pytest.mark.parametrize("state", ["0" * 40, bytearray(40), 0])
def test_a_state_is_bytes(state: object) -> None:
    with pytest.raises(TypeError):
        Sha256(state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "length", [2**29, 2**32 - 64, 2**32, 2**32 + 1, 2**35 + 63, 2**40, 2**53 + 5, 2**61 - 1]
)
def test_very_long_messages(length: int) -> None:
    """The length is counted in bits in 64 bits: the last block is built here independently."""
    chain = hashlib.sha256(b"any").digest()
    pending = bytes(range(length % 64))
    running = Sha256(length.to_bytes(8, "big") + chain + pending)
    assert running.length == length
    expected = sha256_blocks("portable", chain, pending + _pad(length))
    assert running.digest() == expected
    assert running.export_state() == length.to_bytes(8, "big") + chain + pending


def test_lengths_carry_beyond_32_bits() -> None:
    length = 2**32 - 1
    running = Sha256(length.to_bytes(8, "big") + INITIAL + bytes(63))
    running.update(b"ab")
    assert running.length == 2**32 + 1
    chain = sha256_blocks("portable", INITIAL, bytes(63) + b"a")
    assert chain is not None
    assert running.digest() == sha256_blocks("portable", chain, b"b" + _pad(2**32 + 1))


@pytest.mark.parametrize("data", ["text", None, 5])
def test_only_buffers_are_hashed(data: object) -> None:
    with pytest.raises(TypeError):
        Sha256().update(data)  # type: ignore[arg-type]


def test_memory_with_gaps_is_refused() -> None:
    with pytest.raises(BufferError):
        Sha256().update(memoryview(b"abcdef")[::2])


@pytest.mark.parametrize(("state", "data"), [(bytes(31), b""), (bytes(33), b""), (bytes(32), b"x")])
def test_blocks_must_be_whole(state: bytes, data: bytes) -> None:
    with pytest.raises(ValueError, match="whole blocks"):
        sha256_blocks("portable", state, data)


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=8))
def test_hashing_a_part_where_it_lies(pieces: list[bytes]) -> None:
    total = sum(map(len, pieces))
    part = Pool(1 << 20).lend(total, total, total)
    assert part is not None
    running = Sha256()
    for piece in pieces:
        part.advance_hashed(fill(part, piece), running)
    assert bytes(part) == b"".join(pieces)
    assert running.digest() == hashlib.sha256(b"".join(pieces)).digest()
    part.release()


def test_the_time_of_hashing_is_counted() -> None:
    data, running = bytes(8 << 20), Sha256()
    running.update(data)  # whatever was not counted yet is now
    before, began = hash_seconds(), time.thread_time()
    running.update(data)
    whole, took = hash_seconds() - before, time.thread_time() - began
    assert 0.5 * took < whole <= took
    part = Pool(len(data)).lend(len(data), len(data), len(data))
    assert part is not None
    before = hash_seconds()
    part.advance_hashed(fill(part, data), running)
    assert hash_seconds() > before
    part.release()


@pytest.mark.parametrize("size", [100, 2047, 4096, 100_000])
def test_one_piece_in_each_mib_is_timed(size: int) -> None:
    data, running = bytes(size), Sha256()
    running.update(bytes(1 << 20))
    told = {hash_seconds()}
    for _ in range(-(-(1 << 20) // size) * 4):
        running.update(data)
        told.add(hash_seconds())
    assert len(told) == 5
