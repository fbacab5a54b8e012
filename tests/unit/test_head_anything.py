"""Whatever bytes come as a request head: a head that keeps the rules, or a refusal."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from epoch.errors import Code, RegistryError
from epoch.http.head import Head, Limits, has_bad_bytes, parse

LIMITS = Limits(head=32768, target=8192, fields=100)

BAD_BYTES = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n)|\r\n[ \t]")
"""The rule for the bytes of a head, as a definition: `has_bad_bytes` is its fast form."""

tokens = st.sampled_from(
    [
        b"GET",
        b"PUT",
        b" ",
        b"/",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\n",
        b"\r",
        b":",
        b"Host: a",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Connection: upgrade",
        b"Upgrade: h2c",
        b"0",
        b"99999999999999999999",
        b"\t",
        b"\0",
        b"\xff",
        b"?a=b&c",
        b"#",
        b"%",
    ]
)


def judged(data: bytes) -> None:
    """Never anything but a head that keeps the rules, or a refusal with a status of 4xx or 5xx."""
    try:
        parsed = parse(data, LIMITS)
    except RegistryError as error:
        refusal = error.status, error.code
    else:
        assert_keeps_the_rules(parsed)
        return
    assert refusal[0] in (400, 405, 413, 414, 417, 431, 501, 505)
    assert refusal[1] in (Code.BAD_REQUEST, Code.SIZE_INVALID, Code.UNSUPPORTED)


def assert_keeps_the_rules(parsed: Head) -> None:
    assert parsed.path.startswith("/")
    assert parsed.length is None or 0 <= parsed.length < 10**19
    assert not any("\r" in v or "\n" in v or "\0" in v for v in parsed.headers.values())
    assert all(name == name.lower() for name in parsed.headers)
    assert not ({"content-length", "transfer-encoding"} <= parsed.headers.keys())


def assert_as_defined(data: bytes) -> None:
    assert has_bad_bytes(data) is (BAD_BYTES.search(data) is not None), data


@given(st.lists(st.one_of(tokens, st.binary(max_size=2)), max_size=12).map(b"".join))
def test_bad_bytes_are_those_of_the_definition(data: bytes) -> None:
    assert_as_defined(data)


def test_bad_bytes_of_every_short_text() -> None:
    """Each byte between two letters, and whatever line ends and blanks can form."""
    for byte in range(256):
        assert_as_defined(b"a%cb" % byte)
    for length in range(7):
        for text in itertools.product(b"\r\n\t a", repeat=length):
            assert_as_defined(bytes(text))


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    judged(data)
    judged(data + b"\r\n\r\n")


@given(st.lists(tokens, max_size=30).map(b"".join))
def test_any_tokens(data: bytes) -> None:
    judged(data + b"\r\n\r\n")
    judged(b"PUT / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n")


@given(st.lists(st.tuples(st.integers(0, 90), st.binary(max_size=2)), max_size=4))
def test_a_good_head_with_bytes_replaced(changes: list[tuple[int, bytes]]) -> None:
    data = (
        b"PUT /v2/a/blobs/uploads/?x=1 HTTP/1.1\r\nHost: registry.example\r\n"
        b"Content-Length: 3\r\nRange: 0-1\r\n\r\n"
    )
    for at, replacement in changes:
        data = data[:at] + replacement + data[at + 1 :]
    judged(data)
