"""A blob is readable through a repository only if it belongs there: who may pull from some
repositories gets nothing of the others by digest, by mount, or by a manifest that names it."""

from __future__ import annotations

import base64
import itertools
import json
import time
from pathlib import Path
from typing import Any

import bcrypt
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.tools.client import Answer, digest_of, request
from tests.tools.fixtures import StartServer

pytestmark = pytest.mark.parametrize("place", ["directory"], indirect=True)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
USERS = ("alice", "bob", "carol", "")
"""The last one does not sign in."""
REPOSITORIES = ("public/x", "shared/x", "bob/x", "carol/x")
BLOBS = {name: f"what only {name} has".encode() for name in REPOSITORIES}
RULES = """
[[rule]]
users = ["alice"]
repositories = ["**"]
actions = ["push", "delete"]

[[rule]]
users = ["bob"]
repositories = ["bob/**"]
actions = ["push", "delete"]

[[rule]]
users = ["carol"]
repositories = ["carol/**"]
actions = ["push"]

[[rule]]
users = ["bob", "carol"]
repositories = ["shared/*"]
actions = ["pull"]

[[rule]]
users = ["*"]
repositories = ["public/**"]
actions = ["pull"]
"""


def may_pull(user: str, repository: str) -> bool:
    """What the rules say."""
    owner = repository.partition("/")[0]
    return user == "alice" or owner in (user, "public") or (owner == "shared" and user != "")


def may_read(user: str, through: str, home: str) -> bool:
    """Whether the blob that only `home` has is there for the user."""
    # Where pulls are open to everybody, nobody is asked who he is.
    sees_all = user == "alice" and not through.startswith("public/")
    return may_pull(user, through) and (sees_all or through == home)


class Registry:
    """A server, as its users see it."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, user: str, method: str, path: str, body: bytes | None = None) -> Answer:
        shown = base64.b64encode(f"{user}:pw".encode()).decode()
        fields = (f"Authorization: Basic {shown}",) if user else ()
        return await request(self.port, method, f"/v2/{path}", body, *fields)

    async def read(self, user: str, repository: str, data: bytes) -> int:
        """The status of GET, and of HEAD."""
        path = f"{repository}/blobs/{digest_of(data)}"
        got = await self.ask(user, "GET", path)
        assert (await self.ask(user, "HEAD", path)).status == got.status
        if got.status == 404:
            missing = f"{repository}/blobs/{digest_of(b'that nobody has')}"
            assert got.body == (await self.ask(user, "GET", missing)).body
        else:
            assert got.status != 200 or got.body == data
        return got.status

    async def put(self, user: str, repository: str, data: bytes) -> int:
        path = f"{repository}/blobs/{digest_of(data)}"
        return (await self.ask(user, "PUT", path, data)).status

    async def push_in_session(self, user: str, repository: str, data: bytes) -> int:
        begun = await self.ask(user, "POST", f"{repository}/blobs/uploads/", b"")
        path = begun.headers["location"].removeprefix("/v2/")
        assert (await self.ask(user, "PATCH", path, data)).status == 202
        answer = await self.ask(user, "PUT", f"{path}?digest={digest_of(data)}", b"")
        return answer.status

    async def mount(self, user: str, target: str, data: bytes, source: str = "") -> int:
        origin = f"&from={source}" if source else ""
        path = f"{target}/blobs/uploads/?mount={digest_of(data)}{origin}"
        return (await self.ask(user, "POST", path, b"")).status

    async def name(self, user: str, repository: str, *blobs: bytes, **more: Any) -> Answer:
        """Push a manifest that names these."""
        return await self.ask(user, "PUT", f"{repository}/manifests/1", manifest(*blobs, **more))


def manifest(*blobs: bytes, **more: Any) -> bytes:
    config, *layers = [
        {"mediaType": "application/x", "digest": digest_of(data), "size": len(data), **more}
        for data in blobs
    ]
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
    return json.dumps(value).encode()


def links(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in (place / "_links").rglob("sha256-*"))


def store_as_go_server(place: Path, repository: str, data: bytes) -> None:
    """A blob, and a manifest that names it, without anything of ours."""
    named = manifest(data)
    for key, content in (
        (f"blobs/sha256/{digest_of(data)[7:]}", data),
        (f"manifests/{repository}/1.json", named),
        (f"manifests/{repository}/_digests/sha256-{digest_of(named)[7:]}.json", named),
    ):
        (place / key).parent.mkdir(parents=True, exist_ok=True)
        (place / key).write_bytes(content)


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Users, whose password is `pw`, and rules."""
    password = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text("".join(f"{user}:{password}\n" for user in USERS if user))
    (tmp_path / "access.toml").write_text(RULES)
    return {
        "EPOCH_HTPASSWD": str(tmp_path / "htpasswd"),
        "EPOCH_ACCESS": str(tmp_path / "access.toml"),
    }


@pytest.fixture
async def registry(start_server: StartServer, variables: dict[str, str]) -> Registry:
    """A server with these rules, empty."""
    return Registry(start_server(variables).port)


@pytest.fixture(params=["one request", "session", "Go server"])
async def filled(request: pytest.FixtureRequest, registry: Registry, place: Path) -> Registry:
    """Each repository has its blob, and came to it in one of three ways."""
    for name, data in BLOBS.items():
        if request.param == "Go server":
            store_as_go_server(place, name, data)
        elif request.param == "session":
            assert await registry.push_in_session("alice", name, data) == 201
        else:
            assert await registry.put("alice", name, data) == 201
    assert len(links(place)) == (0 if request.param == "Go server" else len(BLOBS))
    return registry


async def test_every_user_repository_and_blob(filled: Registry) -> None:
    for user, through, home in itertools.product(USERS, REPOSITORIES, REPOSITORIES):
        status = await filled.read(user, through, BLOBS[home])
        if may_pull(user, through):
            assert status == (200 if may_read(user, through, home) else 404), (user, through, home)
        else:
            assert status in (401, 403), (user, through, home)


async def test_every_mount(filled: Registry) -> None:
    for user, source, home in itertools.product(("alice", "bob"), REPOSITORIES, REPOSITORIES):
        target = f"bob/{user}-{source}-{home}".replace("/", "-").replace("bob-", "bob/", 1)
        expected = user == "alice" or (may_pull(user, source) and source == home)
        told = (user, source, home)
        status = await filled.mount(user, target, BLOBS[home], source)
        assert status == (201 if expected else 202), told
        assert await filled.read("bob", target, BLOBS[home]) == (200 if expected else 404), told
    # Without a source, it must be here already.
    assert await filled.mount("bob", "bob/x", BLOBS["bob/x"]) == 201
    assert await filled.mount("bob", "bob/x", BLOBS["shared/x"]) == 202
    assert await filled.mount("carol", "bob/x", BLOBS["bob/x"]) == 403


async def test_every_manifest(filled: Registry) -> None:
    own = {"bob": "bob/x", "carol": "carol/x", "alice": "bob/y"}
    for (user, repository), home in itertools.product(own.items(), REPOSITORIES):
        answer = await filled.name(user, repository, BLOBS[home])
        if user == "alice" or home == repository:
            assert answer.status == 201, (user, home)
            continue
        assert answer.refusal == (404, "MANIFEST_BLOB_UNKNOWN"), (user, home)
        assert answer.body == (
            await filled.name(user, repository, b"that nobody has")
        ).body.replace(digest_of(b"that nobody has").encode(), digest_of(BLOBS[home]).encode())
        assert await filled.read(user, repository, BLOBS[home]) == 404
    # What alice names, belongs.
    assert await filled.read("bob", "bob/y", BLOBS["carol/x"]) == 200


async def test_one_stranger_among_the_layers(filled: Registry) -> None:
    answer = await filled.name("bob", "bob/x", BLOBS["bob/x"], BLOBS["carol/x"])
    assert answer.refusal == (404, "MANIFEST_BLOB_UNKNOWN")
    assert [item["digest"] for item in json.loads(answer.body)["errors"][0]["detail"]] == [
        digest_of(BLOBS["carol/x"])
    ]


@pytest.mark.parametrize("how", ["put", "push_in_session"])
async def test_who_has_the_bytes_gets_the_blob(filled: Registry, how: str) -> None:
    data = BLOBS["carol/x"]
    assert await filled.read("bob", "bob/x", data) == 404
    assert await getattr(filled, how)("bob", "bob/x", data) == 201
    assert await filled.read("bob", "bob/x", data) == 200
    assert await filled.read("bob", "bob/y", data) == 404
    assert (await filled.name("bob", "bob/x", data)).status == 201


async def test_who_has_only_the_digest_gets_nothing(filled: Registry) -> None:
    data = BLOBS["carol/x"]
    path = f"bob/x/blobs/{digest_of(data)}"
    refused = await filled.ask("bob", "PUT", path, b"x" * len(data))
    assert refused.refusal == (400, "DIGEST_INVALID")
    begun = await filled.ask("bob", "POST", "bob/x/blobs/uploads/", b"")
    session = begun.headers["location"].removeprefix("/v2/")
    assert (await filled.ask("bob", "PATCH", session, b"x" * len(data))).status == 202
    refused = await filled.ask("bob", "PUT", f"{session}?digest={digest_of(data)}", b"")
    assert refused.refusal == (400, "DIGEST_INVALID")
    # A layer with URLs of its own need not be here, so it does not make the blob belong.
    elsewhere = await filled.name("bob", "bob/x", data, urls=["https://example.com/x"])
    assert elsewhere.status == 201
    noted = await filled.name("bob", "bob/x", BLOBS["bob/x"], annotations={"x": digest_of(data)})
    assert noted.status == 201
    assert await filled.read("bob", "bob/x", data) == 404
    # Nor can it be deleted from there.
    assert (await filled.ask("bob", "DELETE", path)).refusal == (404, "BLOB_UNKNOWN")
    assert await filled.read("carol", "carol/x", data) == 200


async def test_what_manifests_name_is_looked_up_once(registry: Registry, place: Path) -> None:
    store_as_go_server(place, "bob/x", BLOBS["bob/x"])
    assert await registry.read("bob", "bob/x", BLOBS["bob/x"]) == 200
    assert links(place) == ["_links/bob/x/_/" + digest_of(BLOBS["bob/x"]).replace(":", "-")]
    for path in (place / "manifests/bob/x").rglob("*.json"):
        path.unlink()
    assert await registry.read("bob", "bob/x", BLOBS["bob/x"]) == 200


async def test_what_is_not_proved_makes_no_blob_belong(registry: Registry, place: Path) -> None:
    store_as_go_server(place, "bob/x", BLOBS["bob/x"])
    store_as_go_server(place, "bob/x/nested", BLOBS["carol/x"])
    (place / "manifests/bob/x/odd.json").write_bytes(digest_of(BLOBS["carol/x"]).encode())
    [copy] = (place / "manifests/bob/x/nested/_digests").iterdir()
    (place / "manifests/bob/x/damaged.json").write_bytes(copy.read_bytes())
    assert await registry.read("bob", "bob/x", BLOBS["bob/x"]) == 200
    assert await registry.read("bob", "bob/x", BLOBS["carol/x"]) == 404


async def test_where_nobody_is_limited_nothing_is_noted(
    start_server: StartServer, variables: dict[str, str], place: Path
) -> None:
    del variables["EPOCH_ACCESS"]
    registry = Registry(start_server(variables).port)
    data = BLOBS["bob/x"]
    assert await registry.put("bob", "bob/x", data) == 201
    assert await registry.push_in_session("bob", "bob/x", b"more") == 201
    assert await registry.mount("bob", "bob/y", data, "bob/x") == 201
    assert await registry.read("carol", "carol/x", data) == 200
    assert links(place) == []


async def test_the_tokens_of_another_service(
    start_server: StartServer, tmp_path: Path, place: Path
) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "issuer.pem").write_bytes(pem)
    issuer = {"ISSUER": "them", "AUDIENCE": "us", "REALM": "https://them.example/token"}
    issuer["JWKS"] = str(tmp_path / "issuer.pem")
    port = start_server({f"EPOCH_TOKEN_{name}": value for name, value in issuer.items()}).port

    async def ask(repository: str, method: str, path: str, body: bytes | None = None) -> int:
        access = [{"type": "repository", "name": repository, "actions": ["push"]}]
        claims = {"iss": "them", "aud": "us", "exp": time.time() + 60, "access": access}
        field = f"Authorization: Bearer {jwt.encode(claims, key, 'EdDSA')}"
        return (await request(port, method, f"/v2/{repository}/{path}", body, field)).status

    path = f"blobs/{digest_of(b'data')}"
    assert await ask("one", "PUT", path, b"data") == 201
    assert len(links(place)) == 1
    assert await ask("one", "GET", path) == 200
    assert await ask("two", "GET", path) == 404
    assert await ask("two", "PUT", "manifests/1", manifest(b"data")) == 404
    assert await ask("two", "PUT", path, b"data") == 201
    assert await ask("two", "GET", path) == 200
