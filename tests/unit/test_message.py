"""What a request says by its header fields."""

import pytest

from epoch.http.message import Body, Request

ETAG = '"sha256:00"'


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"if-none-match": ETAG}, True),
        ({"if-none-match": f'"x", W/{ETAG}'}, True),
        ({"if-none-match": "*"}, True),
        ({"if-none-match": '"sha256:01"'}, False),
        ({"if-none-match": ""}, False),
        ({}, False),
    ],
)
def test_if_none_match(headers: dict[str, str], expected: bool) -> None:
    body: Body = None  # type: ignore[assignment]
    assert Request("GET", "/", [], headers, body, "").has_version(ETAG) is expected
