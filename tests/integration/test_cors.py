"""Pages of other origins: nothing is said to them unless their origin is named."""

from __future__ import annotations

import pytest

from tests.tools.client import Answer, digest_of, request
from tests.tools.fixtures import StartServer

pytestmark = pytest.mark.parametrize("place", ["directory"], indirect=True)

UI, OTHER = "https://ui.example.com", "https://other.example.com"
DATA = b"some bytes"
BLOB = f"/v2/a/blobs/{digest_of(DATA)}"
ASKING = "Access-Control-Request-Method: GET"


def allowed(answer: Answer) -> dict[str, str]:
    """What the answer says to browsers."""
    found = {k: v for k, v in answer.headers.items() if k.startswith("access-control-")}
    if "vary" in answer.headers:
        found["vary"] = answer.headers["vary"]
    return found


REQUESTS = [
    ("PUT", BLOB, DATA, 201),
    ("GET", BLOB, None, 200),
    ("HEAD", BLOB, None, 200),
    ("GET", "/v2/", None, 200),
    ("GET", "/v2/a/manifests/none", None, 404),
    ("GET", "/nothing", None, 404),
    ("PATCH", "/v2/", b"", 405),
]


async def test_off_there_is_not_a_field(start_server: StartServer) -> None:
    port = start_server().port
    for method, target, body, status in REQUESTS:
        answer = await request(port, method, target, body, f"Origin: {UI}")
        assert (answer.status, allowed(answer)) == (status, {})
    answer = await request(port, "OPTIONS", BLOB, None, f"Origin: {UI}", ASKING)
    assert (answer.status, allowed(answer)) == (405, {})


async def test_an_origin_that_is_named(start_server: StartServer) -> None:
    port = start_server({"EPOCH_CORS_ORIGIN": f"http://localhost:3000 {UI}"}).port
    for method, target, body, status in REQUESTS:
        for origin in (UI, "http://localhost:3000"):
            answer = await request(port, method, target, body, f"Origin: {origin}")
            assert answer.status == status
            found = allowed(answer)
            assert found.pop("access-control-expose-headers").count("Docker-Content-Digest") == 1
            assert found == {
                "access-control-allow-origin": origin,
                "access-control-allow-credentials": "true",
                "vary": "Origin",
            }
        # Caches must not give another origin this answer, nor this one another's.
        for others in ((f"Origin: {OTHER}",), ("Origin: null",), ()):
            answer = await request(port, method, target, body, *others)
            assert (answer.status, allowed(answer)) == (status, {"vary": "Origin"})


async def test_any_origin_gets_no_credentials(start_server: StartServer) -> None:
    port = start_server({"EPOCH_CORS_ORIGIN": "*"}).port
    answer = await request(port, "PUT", BLOB, DATA, f"Origin: {OTHER}")
    found = allowed(answer)
    assert found.pop("access-control-expose-headers")
    assert found == {"access-control-allow-origin": "*"}


async def test_a_preflight_comes_before_credentials(start_server: StartServer) -> None:
    settings = {"EPOCH_CORS_ORIGIN": UI, "EPOCH_REGISTRY_TOKEN": "a-token"}
    port = start_server(settings).port
    asked = "Access-Control-Request-Headers: authorization,content-type"
    answer = await request(
        port, "OPTIONS", BLOB, None, f"Origin: {UI}", "Access-Control-Request-Method: PUT", asked
    )
    assert answer.status == 204
    found = allowed(answer)
    assert found["access-control-allow-origin"] == UI
    for name, words in (
        ("access-control-allow-methods", ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")),
        ("access-control-allow-headers", ("Authorization", "Content-Type", "Range", "Accept")),
    ):
        assert set(words) <= set(found[name].split(", "))
    # The request itself is judged as ever, and its refusal can be read by the page.
    answer = await request(port, "PUT", BLOB, DATA, f"Origin: {UI}")
    assert answer.status == 401
    assert "WWW-Authenticate" in answer.headers["access-control-expose-headers"].split(", ")
    answer = await request(port, "OPTIONS", BLOB, None, f"Origin: {OTHER}", ASKING)
    assert (answer.status, allowed(answer).get("access-control-allow-origin")) == (204, None)
    assert (await request(port, "OPTIONS", BLOB, None, f"Origin: {UI}")).status in (401, 405)


@pytest.mark.parametrize(
    "origin", ["ui.example.com", "https://ui.example.com/", "https://UI.example.com", "null"]
)
def test_what_is_no_origin_is_one_line(start_server: StartServer, origin: str) -> None:
    with pytest.raises(AssertionError, match="is not an origin"):
        start_server({"EPOCH_CORS_ORIGIN": origin})
