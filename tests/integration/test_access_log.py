"""The access line: who it was, from where, under which id; and what a proxy may say of that."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import bcrypt
import pytest

from tests.tools.client import Answer, request
from tests.tools.fixtures import StartServer
from tests.tools.running import eventually
from tests.tools.server import Server

pytestmark = pytest.mark.parametrize("place", ["directory"], indirect=True)

REGISTRY_TOKEN = "registry-token-7d1c"
PASSWORD = "password-of-alice"
FORWARDED = (
    "X-Forwarded-For: 198.51.100.1, 192.0.2.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: registry.example.com",
)


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """A user, and tokens of our own."""
    line = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"alice:{line}\n")
    (tmp_path / "key").write_text("k" * 32)
    return {
        "EPOCH_HTPASSWD": str(tmp_path / "htpasswd"),
        "EPOCH_TOKEN_KEY": str(tmp_path / "key"),
        "EPOCH_REGISTRY_TOKEN": REGISTRY_TOKEN,
    }


def basic(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def line_of(server: Server, answer: Answer) -> dict[str, str]:
    """The access line of an answer, found by its id."""
    name = answer.headers["x-request-id"]
    pattern = re.compile(rf"^.* info request (.* id={re.escape(name)} .*)$", re.MULTILINE)
    await eventually(lambda: pattern.search(server.log()) is not None)
    found = pattern.search(server.log())
    assert found
    return dict(field.split("=", 1) for field in found[1].split(" "))


async def test_who_it_was(start_server: StartServer, variables: dict[str, str]) -> None:
    server = start_server(variables)
    port = server.port

    async def user(target: str, *fields: str) -> tuple[int, str]:
        answer = await request(port, "GET", target, None, *fields)
        return answer.status, (await line_of(server, answer))["user"]

    answer = await request(port, "GET", "/v2/token", None, basic("alice", PASSWORD))
    token = json.loads(answer.body)["token"]
    assert await user("/v2/token", basic("alice", PASSWORD)) == (200, "alice")
    assert await user("/v2/", f"Authorization: Bearer {token}") == (200, "alice")
    assert await user("/v2/", basic("alice", PASSWORD)) == (200, "alice")
    assert await user("/v2/", basic("anyone", REGISTRY_TOKEN)) == (200, "operator")
    assert await user("/v2/", f"Authorization: Bearer {REGISTRY_TOKEN}") == (200, "operator")
    assert await user("/v2/") == (401, '""')
    # A password in the place of the name is not written down.
    assert await user("/v2/", basic(PASSWORD, "")) == (401, '""')
    assert await user("/v2/token", basic(PASSWORD, "x")) == (401, '""')
    assert await user("/v2/", "Authorization: Bearer " + PASSWORD) == (401, '""')
    for secret in (PASSWORD, REGISTRY_TOKEN, token):
        assert secret not in server.log()


async def test_who_was_refused(
    start_server: StartServer, variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "access.toml").write_text(
        '[[rule]]\nusers = ["bob"]\nrepositories = ["**"]\nactions = ["push"]\n'
    )
    server = start_server(variables | {"EPOCH_ACCESS": str(tmp_path / "access.toml")})
    target = "/v2/a/b/manifests/1"
    answer = await request(server.port, "GET", target, None, basic("alice", PASSWORD))
    assert answer.status == 403
    assert (await line_of(server, answer))["user"] == "alice"


async def test_every_request_has_an_id_of_its_own(start_server: StartServer) -> None:
    server = start_server({})
    answers = [await request(server.port, "GET", "/v2/nothing") for _ in range(3)]
    names = {answer.headers["x-request-id"] for answer in answers}
    assert len(names) == 3
    assert all(re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", name) for name in names)
    for answer in answers:
        assert (await line_of(server, answer))["status"] == "404"


@pytest.mark.parametrize("name", ["0123456789abcdef" * 4, "a.B_c-9", "x"])
async def test_an_id_that_comes_is_kept(start_server: StartServer, name: str) -> None:
    server = start_server({})
    answer = await request(server.port, "GET", "/v2/", None, f"X-Request-Id: {name}")
    assert answer.headers["x-request-id"] == name
    assert (await line_of(server, answer))["path"] == "/v2/"


@pytest.mark.parametrize("name", ["", "a b", "a=b", 'a"', "a" * 65, "a/b", "a%0a"])
async def test_an_odd_id_is_replaced(start_server: StartServer, name: str) -> None:
    server = start_server({})
    answer = await request(server.port, "GET", "/v2/", None, f"X-Request-Id: {name}")
    assert answer.status == 200
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", answer.headers["x-request-id"])


def realm(answer: Answer) -> str:
    found = re.search(r'realm="([^"]+)"', answer.headers["www-authenticate"])
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("trusted", "workers"), [("127.0.0.1", "1"), ("10.0.0.0/8, 127.0.0.0/8", "2")]
)
async def test_a_trusted_proxy_is_believed(
    start_server: StartServer, variables: dict[str, str], trusted: str, workers: str
) -> None:
    more = {"EPOCH_TRUSTED_PROXIES": trusted, "EPOCH_WORKERS": workers}
    server = start_server(variables | more)
    answer = await request(server.port, "GET", "/v2/", None, *FORWARDED)
    assert realm(answer) == "https://registry.example.com/v2/token"
    assert (await line_of(server, answer))["peer"] == "192.0.2.7"
    # Each request of a connection has its own client.
    answer = await request(server.port, "GET", "/v2/")
    assert realm(answer).startswith("http://")
    assert (await line_of(server, answer))["peer"].startswith("127.0.0.1:")


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8,::1"])
async def test_nobody_else_is_believed(
    start_server: StartServer, variables: dict[str, str], trusted: str
) -> None:
    server = start_server(variables | {"EPOCH_TRUSTED_PROXIES": trusted})
    answer = await request(server.port, "GET", "/v2/", None, *FORWARDED)
    assert realm(answer).startswith("http://")
    assert "registry.example.com" not in realm(answer)
    assert (await line_of(server, answer))["peer"].startswith("127.0.0.1:")


async def test_a_trusted_proxy_cannot_break_the_challenge(
    start_server: StartServer, variables: dict[str, str]
) -> None:
    server = start_server(variables | {"EPOCH_TRUSTED_PROXIES": "127.0.0.1"})
    field = 'X-Forwarded-Host: evil",error="x'
    answer = await request(server.port, "GET", "/v2/", None, field)
    assert realm(answer) == "/v2/token"
    assert "evil" not in answer.headers["www-authenticate"]
