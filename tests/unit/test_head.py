"""Request heads: every rule of ours, and every gap that httptools leaves to us."""

from __future__ import annotations

import pytest

from epoch.errors import RegistryError
from epoch.http.head import (
    MAX_AROUND_TARGET,
    MAX_QUERY_FIELDS,
    MAX_SCOPES,
    Head,
    Limits,
    parse,
)

LIMITS = Limits(head=32768, target=8192, fields=100)
HOST = b"Host: registry.example\r\n"


def head(line: bytes = b"GET /v2/ HTTP/1.1", fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def refused(data: bytes) -> tuple[int, str]:
    with pytest.raises(RegistryError) as caught:
        parse(data, LIMITS)
    return caught.value.status, caught.value.code.name


# ---- what is accepted


def test_a_plain_request() -> None:
    data = head(
        b"GET /v2/library/app/tags/list?n=10&last=v%201 HTTP/1.1", HOST + b"Accept: */*\r\n"
    )
    assert parse(data, LIMITS) == Head(
        method="GET",
        path="/v2/library/app/tags/list",
        query=[("n", "10"), ("last", "v 1")],
        headers={"host": "registry.example", "accept": "*/*"},
        length=0,
        keep_alive=True,
        expects_continue=False,
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"])
def test_methods(method: str) -> None:
    assert parse(head(method.encode() + b" / HTTP/1.1"), LIMITS).method == method


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", []),
        (b"//", "//", []),
        (b"/a%2Fb/%2e%2e", "/a%2Fb/%2e%2e", []),  # never decoded
        (b"/a/../b", "/a/../b", []),
        (b"/?", "/", []),
        (b"/?a", "/", [("a", "")]),
        (b"/?a=1&a=2&b=", "/", [("a", "1"), ("a", "2"), ("b", "")]),
        (b"/?a=b=c", "/", [("a", "b=c")]),
        (b"/?digest=sha256%3Aabc", "/", [("digest", "sha256:abc")]),
        (b"/?q=?", "/", [("q", "?")]),
        (b"/?a=+%20", "/", [("a", "  ")]),
        (b"/?a=%ff", "/", [("a", "\ufffd")]),
        (b"/?a=%", "/", [("a", "%")]),
    ],
    ids=repr,
)
def test_targets(target: bytes, path: str, query: list[tuple[str, str]]) -> None:
    parsed = parse(head(b"GET " + target + b" HTTP/1.1"), LIMITS)
    assert (parsed.path, parsed.query) == (path, query)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"a", "a"),
        (b"  a", "a"),
        (b"a \t ", "a"),
        (b"", ""),
        (b"   ", ""),
        (b"a  b", "a  b"),
        (b"\x85a\xa0", "\x85a\xa0"),  # white space to str.strip(), not to HTTP
        (b"\xff\xfe", "\xff\xfe"),
    ],
    ids=repr,
)
def test_field_values(raw: bytes, value: str) -> None:
    assert parse(head(fields=HOST + b"X-Y:" + raw + b"\r\n"), LIMITS).headers["x-y"] == value


def test_field_names_are_lower_case_and_repeated_values_joined() -> None:
    data = head(fields=HOST + b"ACCEPT: a\r\nAccept: b, c\r\naccept: d\r\n")
    assert parse(data, LIMITS).headers["accept"] == "a, b, c, d"


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"", 0),
        (b"Content-Length: 0\r\n", 0),
        (b"Content-Length: 5\r\n", 5),
        (b"Content-Length: 010\r\n", 10),
        (b"Content-Length:7 \t\r\n", 7),
        (b"Content-Length: 1000000000000\r\n", 10**12),
        (b"Content-Length: 9223372036854775807\r\n", 2**63 - 1),
        (b"Content-Length: 9223372036854775808\r\n", 2**63),
        (b"Content-Length: 9999999999999999999\r\n", 10**19 - 1),
        (b"Transfer-Encoding: chunked\r\n", None),
        (b"Transfer-Encoding: CHUNKED \r\n", None),
    ],
    ids=repr,
)
def test_lengths_of_bodies(fields: bytes, length: int | None) -> None:
    for method in (b"PUT", b"GET"):
        assert parse(head(method + b" / HTTP/1.1", HOST + fields), LIMITS).length == length


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", None, True),
        (b"1.1", b"close", False),
        (b"1.1", b"Close", False),
        (b"1.1", b"keep-alive, CLOSE", False),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"closed", True),
        (b"1.0", None, False),
        (b"1.0", b"keep-alive", True),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
    ],
)
def test_keep_alive(version: bytes, connection: bytes | None, keep_alive: bool) -> None:
    fields = HOST + (b"Connection: " + connection + b"\r\n" if connection else b"")
    assert parse(head(b"GET / HTTP/" + version, fields), LIMITS).keep_alive is keep_alive


def test_http_1_0_needs_no_host() -> None:
    assert parse(head(b"GET / HTTP/1.0", b""), LIMITS).headers == {}


@pytest.mark.parametrize(
    ("line", "value", "expects"),
    [
        (b"PUT / HTTP/1.1", b"100-continue", True),
        (b"PUT / HTTP/1.1", b"100-Continue", True),
        (b"PUT / HTTP/1.0", b"100-continue", False),  # RFC 9110, section 10.1.1: to be ignored
    ],
)
def test_expectations(line: bytes, value: bytes, expects: bool) -> None:
    data = head(line, HOST + b"Expect: " + value + b"\r\nContent-Length: 3\r\n")
    assert parse(data, LIMITS).expects_continue is expects


@pytest.mark.parametrize(
    "fields",
    [
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    ],
    ids=["h2c", "websocket"],
)
@pytest.mark.parametrize(
    ("framing", "length"),
    [(b"", 0), (b"Content-Length: 3\r\n", 3), (b"Transfer-Encoding: chunked\r\n", None)],
)
def test_upgrades_are_as_if_absent(fields: bytes, framing: bytes, length: int | None) -> None:
    parsed = parse(head(b"PUT /x HTTP/1.1", HOST + fields + framing), LIMITS)
    assert (parsed.method, parsed.path, parsed.length) == ("PUT", "/x", length)
    assert parsed.keep_alive


def test_limits_are_inclusive() -> None:
    target = b"/" + b"a" * (LIMITS.target - 1)
    assert len(parse(head(b"GET " + target + b" HTTP/1.1"), LIMITS).path) == LIMITS.target
    fields = HOST + b"".join(b"x-%d: y\r\n" % at for at in range(LIMITS.fields - 1))
    assert len(parse(head(fields=fields), LIMITS).headers) == LIMITS.fields
    padding = LIMITS.head - len(head(fields=HOST + b"x: \r\n"))
    whole = head(fields=HOST + b"x: " + b"y" * padding + b"\r\n")
    assert len(whole) == LIMITS.head
    assert len(parse(whole, LIMITS).headers["x"]) == padding
    query = b"&".join(b"a=%d" % at for at in range(MAX_QUERY_FIELDS))
    assert len(parse(head(b"GET /?" + query + b" HTTP/1.1"), LIMITS).query) == MAX_QUERY_FIELDS


def test_a_request_for_a_token_may_ask_for_as_much_as_a_head_holds() -> None:
    """Clients ask for all repositories that they will need, one field each."""
    fields = [b"scope=repository:" + b"%04d" % at for at in range(MAX_SCOPES)]
    target = b"/v2/token?" + b"&".join(fields)
    assert len(target) > 2 * LIMITS.target
    parsed = parse(head(b"GET " + target + b" HTTP/1.1"), LIMITS)
    assert parsed.path == "/v2/token"
    assert len(parsed.query) == MAX_SCOPES


# ---- what is refused

BAD = (400, "BAD_REQUEST")
ONCE = [
    "Host",
    "Content-Length",
    "Content-Type",
    "Content-Range",
    "Transfer-Encoding",
    "Authorization",
    "Expect",
    "Range",
    "If-Range",
]
VALID = {"Content-Length": "3", "Transfer-Encoding": "chunked", "Expect": "100-continue"}

REQUEST_LINES = {
    "HTTP/0.9": (b"GET /", BAD),
    "HTTP/0.9 with a version": (b"GET / HTTP/0.9", (505, "BAD_REQUEST")),
    "HTTP/1.2": (b"GET / HTTP/1.2", (505, "BAD_REQUEST")),
    "HTTP/2.0": (b"GET / HTTP/2.0", (505, "BAD_REQUEST")),
    "HTTP/2 preface": (b"PRI * HTTP/2.0", (505, "BAD_REQUEST")),
    "HTTP/11": (b"GET / HTTP/11", BAD),
    "HTTP/1.10": (b"GET / HTTP/1.10", BAD),
    "HTTP/+1.1": (b"GET / HTTP/+1.1", BAD),
    "http/1.1": (b"GET / http/1.1", BAD),
    "HTTPS/1.1": (b"GET / HTTPS/1.1", BAD),
    "no version": (b"GET / ", BAD),
    "no target": (b"GET HTTP/1.1", BAD),
    "two spaces before the target": (b"GET  / HTTP/1.1", BAD),
    "two spaces after it": (b"GET /  HTTP/1.1", BAD),
    "a space in it": (b"GET /a b HTTP/1.1", BAD),
    "a tab": (b"GET\t/ HTTP/1.1", BAD),
    "a trailing space": (b"GET / HTTP/1.1 ", BAD),
    "a leading space": (b" GET / HTTP/1.1", BAD),
    "NUL in the target": (b"GET /\0 HTTP/1.1", BAD),
    "a byte above ASCII": (b"GET /\xc3\xa9 HTTP/1.1", BAD),
    "DEL": (b"GET /\x7f HTTP/1.1", BAD),
    "absolute form": (b"GET http://registry.example/ HTTP/1.1", BAD),
    "authority form": (b"GET registry.example:80 HTTP/1.1", BAD),
    "asterisk form": (b"OPTIONS * HTTP/1.1", BAD),
    "fragment": (b"GET /#top HTTP/1.1", BAD),
    "fragment after a query": (b"GET /?a#top HTTP/1.1", BAD),
    "CONNECT": (b"CONNECT registry.example:443 HTTP/1.1", BAD),
    "CONNECT to a path": (b"CONNECT / HTTP/1.1", (405, "UNSUPPORTED")),
    "unknown method": (b"BREW / HTTP/1.1", (501, "UNSUPPORTED")),
    "lower-case method": (b"get / HTTP/1.1", (501, "UNSUPPORTED")),
    "method of another protocol": (b"DESCRIBE / HTTP/1.1", BAD),
    "method of 33 characters": (b"G" * 33 + b" / HTTP/1.1", BAD),
    "no method": (b"/ HTTP/1.1", BAD),
    "a bracket in the method": (b"GE(T / HTTP/1.1", BAD),
    "nothing": (b"", BAD),
    "long target": (b"GET /" + b"a" * LIMITS.target + b" HTTP/1.1", (414, "BAD_REQUEST")),
    "very long target": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1", (414, "BAD_REQUEST")),
    "a long target that begins like that of tokens": (
        b"GET /v2/tokens?" + b"a" * LIMITS.target + b" HTTP/1.1",
        (414, "BAD_REQUEST"),
    ),
    "a request for a token that is longer than a head": (
        b"GET /v2/token?" + b"a" * LIMITS.head + b" HTTP/1.1",
        (431, "BAD_REQUEST"),
    ),
    "too many scopes": (
        b"GET /v2/token?" + b"&".join([b"a=1"] * (MAX_SCOPES + 1)) + b" HTTP/1.1",
        (414, "BAD_REQUEST"),
    ),
    "many query parameters": (
        b"GET /?" + b"&".join([b"a=1"] * (MAX_QUERY_FIELDS + 1)) + b" HTTP/1.1",
        (414, "BAD_REQUEST"),
    ),
}


@pytest.mark.parametrize("name", REQUEST_LINES)
def test_bad_request_lines(name: str) -> None:
    line, expected = REQUEST_LINES[name]
    assert refused(head(line)) == expected


FIELDS = {
    "no Host": (b"Accept: */*\r\n", BAD),
    "space before the colon": (HOST + b"X : y\r\n", BAD),
    "no colon": (HOST + b"X\r\n", BAD),
    "no name": (HOST + b": y\r\n", BAD),
    "space in the name": (HOST + b"X Y: z\r\n", BAD),
    "a byte above ASCII in the name": (HOST + b"X\xff: y\r\n", BAD),
    "a quote in the name": (HOST + b'X": y\r\n', BAD),
    "folded": (HOST + b"X: y\r\n z\r\n", BAD),
    "folded with a tab": (HOST + b"X: y\r\n\tz\r\n", BAD),
    "first field folded": (b" " + HOST, BAD),
    "bare LF after a field": (HOST + b"X: y\nZ: a\r\n", BAD),
    "bare LF hides a field": (b"X: y\n" + HOST, BAD),
    "bare CR": (HOST + b"X: y\rZ: a\r\n", BAD),
    "CR CR LF": (HOST + b"X: y\r\r\n", BAD),
    "NUL": (HOST + b"X: y\0z\r\n", BAD),
    "ESC": (HOST + b"X: \x1b[31m\r\n", BAD),
    "DEL in a value": (HOST + b"X: \x7f\r\n", BAD),
    "vertical tab": (HOST + b"X: \x0b\r\n", BAD),
    "length and coding": (HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", BAD),
    "coding and length": (HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", BAD),
    "two different lengths": (HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n", BAD),
    "a list of lengths": (HOST + b"Content-Length: 3, 3\r\n", BAD),
    "an empty length": (HOST + b"Content-Length:\r\n", BAD),
    "a negative length": (HOST + b"Content-Length: -1\r\n", BAD),
    "a length with a plus": (HOST + b"Content-Length: +3\r\n", BAD),
    "a length with an underscore": (HOST + b"Content-Length: 1_0\r\n", BAD),
    "a length in hex": (HOST + b"Content-Length: 0x3\r\n", BAD),
    "a length with a fraction": (HOST + b"Content-Length: 3.0\r\n", BAD),
    "a length in Latin-1 digits": (HOST + b"Content-Length: \xb2\r\n", BAD),
    "a length of two words": (HOST + b"Content-Length: 3 4\r\n", BAD),
    "2**64": (HOST + b"Content-Length: 18446744073709551616\r\n", (413, "SIZE_INVALID")),
    "2**64 - 1": (HOST + b"Content-Length: 18446744073709551615\r\n", (413, "SIZE_INVALID")),
    "10**30": (HOST + b"Content-length:1" + b"0" * 30 + b"\r\n", (413, "SIZE_INVALID")),
    "gzip, chunked": (HOST + b"Transfer-Encoding: gzip, chunked\r\n", (501, "BAD_REQUEST")),
    ", chunked": (HOST + b"Transfer-Encoding: ,chunked\r\n", (501, "BAD_REQUEST")),
    "chunked, gzip": (HOST + b"Transfer-Encoding: chunked, gzip\r\n", BAD),
    "identity": (HOST + b"Transfer-Encoding: identity\r\n", BAD),
    "xchunked": (HOST + b"Transfer-Encoding: xchunked\r\n", BAD),
    "chunked in quotes": (HOST + b'Transfer-Encoding: "chunked"\r\n', BAD),
    "vertical tab before chunked": (HOST + b"Transfer-Encoding: \x0bchunked\r\n", BAD),
    "space before the colon of a coding": (HOST + b"Transfer-Encoding : chunked\r\n", BAD),
    "another expectation": (HOST + b"Expect: a miracle\r\n", (417, "BAD_REQUEST")),
    "an empty expectation": (HOST + b"Expect:\r\n", (417, "BAD_REQUEST")),
    "101 fields": (HOST + b"X: y\r\n" * LIMITS.fields, (431, "BAD_REQUEST")),
    "10,000 fields": (HOST + b"X: y\r\n" * 10_000, (431, "BAD_REQUEST")),
    "a field of 64 kB": (HOST + b"X: " + b"y" * 65536 + b"\r\n", (431, "BAD_REQUEST")),
}


@pytest.mark.parametrize("name", FIELDS)
def test_bad_fields(name: str) -> None:
    fields, expected = FIELDS[name]
    assert refused(head(b"PUT / HTTP/1.1", fields)) == expected


@pytest.mark.parametrize("name", ONCE)
def test_fields_that_may_come_once_only(name: str) -> None:
    """Whether the second is the same or not, and whatever its case."""
    first = f"{name}: {VALID.get(name, 'a')}\r\n".encode()
    second = f"{name.upper()}: {VALID.get(name, 'b')}\r\n".encode()
    others = b"" if name == "Host" else HOST
    for pair in (first + first, first + second):
        assert refused(head(b"PUT / HTTP/1.1", others + pair)) == BAD


@pytest.mark.parametrize("coding", [b"chunked", b"gzip"])
def test_a_transfer_coding_in_http_1_0(coding: bytes) -> None:
    fields = HOST + b"Transfer-Encoding: " + coding + b"\r\n"
    assert refused(head(b"PUT / HTTP/1.0", fields)) == BAD


@pytest.mark.parametrize(
    "data", [b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\n", head()[:-2], head()[:-1]]
)
def test_what_is_not_a_whole_head(data: bytes) -> None:
    assert refused(data) == BAD


def test_the_longest_request_line_is_told_from_the_longest_head() -> None:
    """A head that is too long has 414 only if its first line is to blame."""
    line = b"G" * 32 + b" /" + b"a" * (LIMITS.target - 1) + b" HTTP/1.1"
    assert len(line) + 2 == LIMITS.target + MAX_AROUND_TARGET
    assert refused(head(line, HOST + b"X: y\r\n" * 10_000)) == (431, "BAD_REQUEST")


def test_refusals_do_not_repeat_what_came() -> None:
    """Fields hold secrets, and refusals are sent and logged."""
    for fields in (b"Authorization: Bearer s3cret\r\n" * 2, b"Content-Length: s3cret\r\n"):
        with pytest.raises(RegistryError) as caught:
            parse(head(fields=HOST + fields), LIMITS)
        assert "s3cret" not in caught.value.message
