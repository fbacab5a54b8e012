"""The chunked decoder against a reference that is as simple as it can be, at every split."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epoch._fastio import ChunkedDecoder, Pool, fill

SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t -~\x80-\xff]*)?\r\n")
TRAILER_LINE = re.compile(rb"[\t -~\x80-\xff]*\r\n")


def reference(data: bytes) -> tuple[bytes, bytes] | None:
    """RFC 9112, section 7.1, on a whole message: body and what follows it; None where it is
    malformed or ends too early."""
    body, at = b"", 0
    while True:
        line = SIZE_LINE.match(data, at)
        if line is None:
            return None
        size, at = int(line[1], 16), line.end()
        if size == 0:
            break
        chunk = data[at : at + size]
        if len(chunk) != size or data[at + size : at + size + 2] != b"\r\n":
            return None
        body, at = body + chunk, at + size + 2
    while True:
        trailer = TRAILER_LINE.match(data, at)
        if trailer is None:
            return None
        at = trailer.end()
        if trailer[0] == b"\r\n":
            return body, data[at:]


def decode(
    pieces: Sequence[bytes], limit: int = 1 << 40, overhead: int = 16384
) -> tuple[bytes, bytes] | None:
    """The same by the decoder under test; None where it wants more. Raises what it raises."""
    decoder = ChunkedDecoder(limit, overhead)
    body = b""
    for at, piece in enumerate(pieces):
        buffer = bytearray(piece + b"beyond")
        count, rest = decoder.feed(buffer, len(piece))
        assert buffer[len(piece) :] == b"beyond"
        assert count <= len(piece)
        body += buffer[:count]
        assert decoder.total == len(body)
        if decoder.done:
            return body, rest + b"".join(pieces[at + 1 :])
        assert rest == b""
    return None


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` in pieces."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[start:stop] for start, stop in pairwise(places)]


MESSAGES = {
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
    "no body": (b"0\r\n\r\n", b"", b""),
    "several chunks": (b"1\r\na\r\n2\r\nbc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789", b""),
    "hex in both cases": (
        b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
        b"01234567890123456789a",
        b"",
    ),
    "leading zeros": (b"0005\r\nhello\r\n0000\r\n\r\n", b"hello", b""),
    "sixteen digits": (b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", b"hello", b""),
    "extensions": (b'5;a=b\r\nhello\r\n0;c="d e"\r\n\r\n', b"hello", b""),
    "an empty extension": (b"5;\r\nhello\r\n0;\r\n\r\n", b"hello", b""),
    "extension with a tab and obs-text": (b"5;\t\xff\r\nhello\r\n0\r\n\r\n", b"hello", b""),
    "trailers are dropped": (
        b"5\r\nhello\r\n0\r\nX: y\r\nContent-Length: 3\r\n\r\n",
        b"hello",
        b"",
    ),
    "what follows is given back": (
        b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
        b"hello",
        b"GET / HTTP/1.1\r\n",
    ),
    "framing inside the body": (
        b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n5\r\n",
        b"0\r\n\r\n\r\n",
        b"5\r\n",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_at_every_pair_of_splits(name: str) -> None:
    data, body, rest = MESSAGES[name]
    assert reference(data) == (body, rest)
    assert decode([data]) == (body, rest)
    assert decode([data[at : at + 1] for at in range(len(data))]) == (body, rest)
    for first in range(1, len(data)):
        for second in range(first, len(data)):
            assert decode(split(data, [first, second])) == (body, rest), (first, second)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_cut_short_is_never_done(name: str) -> None:
    data, _, rest = MESSAGES[name]
    whole = data[: len(data) - len(rest)]
    for stop in range(len(whole)):
        assert decode([whole[:stop]] if stop else []) is None


BROKEN = {
    "no size": b"\r\nhello",
    "an extension before the size": b";a\r\n",
    "bare LF after the size": b"5\nhello\r\n",
    "bare LF after an extension": b"5;a\nhello\r\n",
    "bare LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "bare LF after a trailer": b"0\r\nA: b\n\r\n",
    "bare LF at the end": b"0\r\n\n",
    "bare CR after the size": b"5\rhello\r\n",
    "bare CR in an extension": b"5;a\rb\r\nhello",
    "bare CR in a trailer": b"0\r\nA\rB: c\r\n\r\n",
    "CR CR LF": b"5\r\r\nhello\r\n",
    "data longer than announced": b"5\r\nhello!\r\n",
    "data shorter than announced": b"6\r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n",
    "space after the size": b"5 \r\nhello\r\n",
    "space before an extension": b"5 ;a\r\nhello\r\n",
    "tab after the size": b"5\t\r\nhello\r\n",
    "0x": b"0x5\r\nhello\r\n",
    "plus": b"+5\r\nhello\r\n",
    "minus": b"-5\r\nhello\r\n",
    "underscore": b"1_0\r\n0123456789abcdef\r\n",
    "a letter beyond F": b"5g\r\nhello\r\n",
    "NUL in an extension": b"5;\0\r\nhello\r\n",
    "DEL in an extension": b"5;\x7f\r\nhello\r\n",
    "NUL in a trailer": b"0\r\nA: \0\r\n\r\n",
    "a control character that begins a trailer": b"0\r\n\x01\r\n\r\n",
    "seventeen digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "2**64": b"10000000000000000\r\n",
    "a thousand zeros": b"0" * 1000 + b"5\r\nhello\r\n",
    "text": b"hello",
    "an upper-case digit of another script": "\uff15\r\nhello\r\n".encode(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_framing_is_refused_for_ever_and_at_every_split(name: str) -> None:
    data = BROKEN[name]
    assert reference(data) is None
    for at in range(1, len(data) if len(data) < 100 else 100):
        with pytest.raises(ValueError, match=r"\w"):
            decode(split(data, [at]))
    decoder = ChunkedDecoder(1 << 40)
    with pytest.raises(ValueError, match=r"\w"):
        decoder.feed(bytearray(data), len(data))
    assert not decoder.done
    for more in (b"0\r\n\r\n", b"\r\n", b"5\r\nhello\r\n"):
        with pytest.raises(ValueError, match="malformed before"):
            decoder.feed(bytearray(more), len(more))


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        (11, 10),
        (2**31, 2**31 - 1),
        (2**32, 2**32 - 1),
        (2**63 - 1, 10),
        (2**63, 2**63 - 1),
        (2**64 - 1, 10),
        (2**64 - 1, 2**63),
        (2**64 - 1, 2**64 - 2),
        (1, 0),
    ],
)
def test_a_chunk_beyond_the_limit_is_refused_before_its_data(size: int, limit: int) -> None:
    for line in (b"%x\r\n" % size, b"%X;extension" % size):
        decoder = ChunkedDecoder(limit)
        with pytest.raises(OverflowError, match=str(limit)):
            decoder.feed(bytearray(line), len(line))
        with pytest.raises(ValueError, match="malformed before"):
            decoder.feed(bytearray(b"0"), 1)


@pytest.mark.parametrize("size", [2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_huge_chunk_within_the_limit_is_taken_as_it_comes(size: int) -> None:
    decoder = ChunkedDecoder(2**64 - 1)
    data = b"%x\r\n" % size + bytes(1000)
    assert decoder.feed(bytearray(data), len(data)) == (1000, b"")
    assert (decoder.total, decoder.done) == (1000, False)


def test_the_limit_counts_all_chunks() -> None:
    data = b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"
    assert decode([data], limit=10) == (b"helloworld", b"")
    with pytest.raises(OverflowError):
        decode([data], limit=9)
    assert decode([b"0\r\n\r\n"], limit=0) == (b"", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"1;" + b"x" * 100 + b"\r\na\r\n0\r\n\r\n",
        b"1;" + b"x" * 50 + b"\r\na\r\n0;" + b"y" * 50 + b"\r\n\r\n",
        b"0\r\n" + b"a: b\r\n" * 25 + b"\r\n",
        b"1;" + b"x" * 60 + b"\r\na\r\n0\r\nT: " + b"t" * 37 + b"\r\n\r\n",
    ],
    ids=["one extension", "two extensions", "trailers", "both"],
)
def test_extensions_and_trailers_share_one_overhead(data: bytes) -> None:
    assert decode([data], overhead=100) is not None
    with pytest.raises(ValueError, match="too long"):
        decode([data], overhead=99)
    with pytest.raises(ValueError, match="too long"):
        decode(split(data, range(0, len(data), 7)), overhead=99)


def test_an_endless_extension_is_cut_at_16_kib() -> None:
    decoder = ChunkedDecoder(1 << 40)
    decoder.feed(bytearray(b"1;"), 2)
    for _ in range(16):
        assert decoder.feed(bytearray(b"x" * 1024), 1024) == (0, b"")
    with pytest.raises(ValueError, match="too long"):
        decoder.feed(bytearray(b"x"), 1)


def test_after_the_end_everything_is_given_back() -> None:
    decoder = ChunkedDecoder(100)
    assert decoder.feed(bytearray(b"0\r\n\r\nrest"), 9) == (0, b"rest")
    assert decoder.done
    assert decoder.feed(bytearray(b"more"), 4) == (0, b"more")
    assert decoder.feed(bytearray(b"more"), 0) == (0, b"")


@pytest.mark.parametrize("count", [-1, 5, 1 << 62])
def test_more_than_the_buffer_has_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="more bytes than the buffer"):
        ChunkedDecoder(100).feed(bytearray(4), count)


def test_the_buffer_must_be_writable() -> None:
    with pytest.raises(BufferError):
        ChunkedDecoder(100).feed(b"0\r\n\r\n", 5)


def test_in_place_within_a_part_buffer() -> None:
    """The decoded bytes lie at the front of the tail, whatever lies before and behind it."""
    part = Pool(8192).lend(8192, 8192, 100)
    assert part is not None
    decoder = ChunkedDecoder(1 << 20)
    body = random.Random(9).randbytes(5000)
    wire = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in split(body, range(0, 5000, 37))
    )
    wire += b"0\r\n\r\n"
    while wire:
        taken = fill(part, wire)
        count, rest = decoder.feed(part, taken)
        part.advance(count)
        assert rest == b""
        wire = wire[taken:]
    assert decoder.done
    assert bytes(part) == body
    part.release()


chunks = st.builds(
    lambda data, zeros, upper, extension: (
        b"0" * zeros
        + (b"%X" if upper else b"%x") % len(data)
        + (b";" + extension if extension is not None else b"")
        + b"\r\n"
        + data
        + b"\r\n",
        data,
    ),
    st.binary(min_size=1, max_size=80),
    st.integers(0, 8),
    st.booleans(),
    st.none() | st.text('ab="; \t', max_size=9).map(str.encode),
)
trailers = st.lists(
    st.sampled_from([b"A: b\r\n", b"X:\r\n", b"\xff\r\n", b" folded\r\n"]), max_size=3
)
splits = st.lists(st.integers(0, 700), max_size=10)


@given(st.lists(chunks, max_size=8), trailers, st.binary(max_size=40), splits)
def test_well_formed_messages_in_random_splits(
    parts: list[tuple[bytes, bytes]], lines: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    data = b"".join(wire for wire, _ in parts) + b"0\r\n" + b"".join(lines) + b"\r\n" + rest
    expected = b"".join(body for _, body in parts), rest
    assert reference(data) == expected
    assert decode(split(data, cuts)) == expected


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(
            [b"0", b"1", b"a", b"\r\n", b"\r", b"\n", b";", b" ", b"x", b"\0", b"F", b":"]
        ),
        max_size=24,
    ).map(b"".join),
    splits,
)
@example(b"1\r\nx\r\n0\r\n\r\n", [])
@example(b"0;\r\n\r\n0", [])
def test_anything_is_read_as_the_reference_reads_it(data: bytes, cuts: list[int]) -> None:
    """What the reference takes, the decoder takes and splits at the same place; what it does not,
    the decoder refuses or waits for more of."""
    try:
        outcome = decode(split(data, cuts)) if data else None
    except (ValueError, OverflowError):
        outcome = None
    assert outcome == reference(data)


def test_mutated_messages_are_read_as_the_reference_reads_them() -> None:
    source = random.Random(26)
    seeds = [data for data, _, _ in MESSAGES.values()]
    accepted = 0
    for _ in range(20_000):
        data = bytearray(source.choice(seeds))
        for _ in range(source.randrange(3)):
            at = source.randrange(len(data))
            if source.random() < 0.5:
                data[at] = source.choice(b"\r\n 0aF;:\0")
            else:
                del data[at : at + source.randrange(3)]
            data = data or bytearray(b"0")
        whole = bytes(data)
        try:
            outcome = decode(split(whole, [source.randrange(40), source.randrange(40)]))
        except (ValueError, OverflowError):
            outcome = None
        assert outcome == reference(whole), whole
        accepted += outcome is not None
    assert 5000 < accepted < 19_000
