"""Access control on the wire: every endpoint, every kind of caller, every way to write a path."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import bcrypt
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.tools.client import Client, digest_of, head, request
from tests.tools.fixtures import StartServer
from tests.tools.machine import curl
from tests.tools.running import eventually
from tests.tools.server import Server

pytestmark = pytest.mark.parametrize("place", ["directory"], indirect=True)

REGISTRY_TOKEN = "registry-token-7d1c"
PASSWORDS = {"alice": "password-of-alice", "bob": "password-of-bob"}
RULES = """
[[rule]]
users = ["*"]
repositories = ["public/**"]
actions = ["pull"]

[[rule]]
users = ["alice"]
repositories = ["**"]
actions = ["push", "delete"]

[[rule]]
users = ["authenticated"]
repositories = ["team/*"]
actions = ["pull"]
"""
DATA = b"some bytes"
DIGEST = digest_of(DATA)
REPOSITORIES = ("public/x", "team/x", "private/x")


def allowed(caller: str, action: str, repository: str) -> bool:
    """What the rules say: the oracle."""
    if caller in ("alice", "operator"):
        return True
    if action != "pull":
        return False
    return repository.startswith("public/") or (caller == "bob" and repository == "team/x")


def basic(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def bearer(port: int, user: str | None, scope: str) -> str:
    fields = (basic(user, PASSWORDS[user]),) if user else ()
    answer = await request(port, "GET", f"/v2/token?scope={quote(scope)}", None, *fields)
    assert answer.status == 200
    return f"Authorization: Bearer {json.loads(answer.body)['token']}"


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Users and rules."""
    lines = [
        f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
        for user, password in PASSWORDS.items()
    ]
    (tmp_path / "htpasswd").write_text("".join(lines))
    (tmp_path / "access.toml").write_text(RULES)
    (tmp_path / "key").write_text("k" * 32)
    return {
        "EPOCH_HTPASSWD": str(tmp_path / "htpasswd"),
        "EPOCH_ACCESS": str(tmp_path / "access.toml"),
    }


@pytest.fixture
def guarded(start_server: StartServer, variables: dict[str, str], tmp_path: Path) -> Server:
    """A server with users, rules, tokens and the registry token."""
    more = {"EPOCH_TOKEN_KEY": str(tmp_path / "key"), "EPOCH_REGISTRY_TOKEN": REGISTRY_TOKEN}
    return start_server(variables | more)


async def push(port: int, repository: str, *fields: str) -> None:
    """A blob and a manifest `1` that names it."""
    answer = await request(port, "PUT", f"/v2/{repository}/blobs/{DIGEST}", DATA, *fields)
    assert answer.status == 201
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/x", "digest": DIGEST, "size": len(DATA)},
        "layers": [],
    }
    body = json.dumps(manifest).encode()
    answer = await request(port, "PUT", f"/v2/{repository}/manifests/1", body, *fields)
    assert answer.status == 201


def stored(place: Path) -> dict[str, bytes]:
    """All blobs, manifests and uploads of the directory store."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for folder in ("blobs", "manifests", "_uploads")
        for path in (place / folder).rglob("*")
        if path.is_file() and path.name != "secret"
    }


ENDPOINTS = [
    ("GET", "/blobs/" + DIGEST, "pull"),
    ("HEAD", "/blobs/" + DIGEST, "pull"),
    ("GET", "/manifests/1", "pull"),
    ("HEAD", "/manifests/1", "pull"),
    ("GET", "/tags/list", "pull"),
    ("GET", "/referrers/" + DIGEST, "pull"),
    ("PUT", "/blobs/" + DIGEST, "push"),
    ("POST", "/blobs/uploads/", "push"),
    ("POST", "/blobs/uploads/?digest=" + DIGEST, "push"),
    ("POST", f"/blobs/uploads/?mount={DIGEST}&from=public/x", "push"),
    ("GET", "/blobs/uploads/abc", "push"),
    ("PATCH", "/blobs/uploads/abc", "push"),
    ("PUT", "/blobs/uploads/abc?digest=" + DIGEST, "push"),
    ("DELETE", "/blobs/uploads/abc", "push"),
    ("PUT", "/manifests/1", "push"),
    ("PUT", f"/manifests/{DIGEST}?tag=1&tag=2", "push"),
    ("DELETE", "/manifests/2", "delete"),
    ("DELETE", "/blobs/" + DIGEST.replace("sha256:", "sha256:0")[:-1], "delete"),
]

WAYS: Mapping[str, Callable[[str], str]] = {
    "as it is": lambda path: path,
    "%2F": lambda path: "/v2/" + path[4:].replace("/", "%2F", 1),
    "%2f everywhere": lambda path: "/v2/" + path[4:].replace("/", "%2f"),
    "all escaped": lambda path: "/v2/" + "".join(
        f"%{ord(c):02X}" if c not in "/?&=" else c for c in path[4:]
    ),
    "escaped twice": lambda path: path.replace("x", "%2578", 1),
    "//v2": lambda path: "/" + path,
    "v2//": lambda path: path.replace("/v2/", "/v2//"),
    "/V2": lambda path: path.replace("/v2/", "/V2/"),
    "/./": lambda path: path.replace("/v2/", "/v2/./"),
    "/../": lambda path: path.replace("/v2/", "/v2/public/../"),
    "/%2e%2e/": lambda path: path.replace("/v2/", "/v2/public/%2e%2e/"),
    "backslash": lambda path: path.replace("/x", "%5cx", 1),
    "dot": lambda path: path.replace("/x/", "/x./", 1),
    "upper": lambda path: path.replace("/x/", "/X/", 1),
    "NUL": lambda path: path.replace("/x/", "/x%00/", 1),
    "space": lambda path: path.replace("/x/", "/x%20/", 1),
    "newline": lambda path: path.replace("/x/", "/x%0a/", 1),
    "semicolon": lambda path: path.replace("/x/", "/x;a/", 1),
    "inner": lambda path: path.replace("/v2/", "/v2/public/x/blobs/uploads/../../../"),
    "final slash": lambda path: path.partition("?")[0] + "/",
}  # fmt: skip

NOT_THERE = {400, 404, 405, 501}


@pytest.mark.timeout(300)
async def test_every_endpoint_caller_and_way_against_the_rules(
    guarded: Server, place: Path
) -> None:
    port = guarded.port
    operator = f"Authorization: Bearer {REGISTRY_TOKEN}"
    for repository in REPOSITORIES:
        await push(port, repository, operator)
    before = stored(place)
    everything = " ".join(f"repository:{name}:pull,push,delete" for name in REPOSITORIES)
    callers = {
        "nobody": (),
        "empty Basic": (basic("", ""),),
        "wrong password": (basic("alice", "password-of-bob"),),
        "unknown user": (basic("carol", PASSWORDS["alice"]),),
        "anonymous token": (await bearer(port, None, everything),),
        "forged token": ("Authorization: Bearer e30.e30.e30",),
        "alice's password as token": (f"Authorization: Bearer {PASSWORDS['alice']}",),
        "malformed": ("Authorization: Basic !",),
        "bob": (basic("bob", PASSWORDS["bob"]),),
        "bob's token": (await bearer(port, "bob", everything),),
    }
    count = 0
    for who, fields in callers.items():
        caller = "bob" if who.startswith("bob") else "nobody"
        async with Client(port) as client:
            for repository in REPOSITORIES:
                for method, rest, action in ENDPOINTS:
                    may = allowed(caller, action, repository)
                    # A password that is right and does not do is final; else one may try others.
                    refusal = 403 if caller == "bob" else 401
                    for way, write in WAYS.items():
                        if may and way != "as it is":
                            continue
                        path = write(f"/v2/{repository}{rest}")
                        answer = await client.request(method, path, None, *fields)
                        count += 1
                        told = (who, method, path, answer.status)
                        if may:
                            assert answer.status in (200, 404), told
                        elif way == "as it is":
                            assert answer.status == refusal, told
                            assert ("www-authenticate" in answer.headers) is (refusal == 401), told
                        else:
                            assert answer.status in {refusal, *NOT_THERE}, told
                        if answer.headers.get("connection") == "close":
                            await client.__aexit__()
                            await client.__aenter__()
    assert count > 8000
    assert stored(place) == before


async def test_who_may_does(guarded: Server) -> None:
    port = guarded.port
    scope = "repository:private/x:pull,push,delete"
    for fields in (
        basic("alice", PASSWORDS["alice"]),
        await bearer(port, "alice", scope),
        f"Authorization: bearer {REGISTRY_TOKEN}",
        basic("whoever", REGISTRY_TOKEN),
    ):
        await push(port, "private/x", fields)
        for method, rest, action in ENDPOINTS:
            answer = await request(port, method, f"/v2/private/x{rest}", None, fields)
            assert answer.status not in (401, 403), (method, rest, action)
        answer = await request(port, "DELETE", "/v2/private/x/manifests/1", None, fields)
        assert answer.status == 202


async def test_a_token_is_good_for_its_scope_only(guarded: Server) -> None:
    port = guarded.port
    token = await bearer(port, "alice", "repository:private/x:pull")
    await push(port, "private/x", basic("alice", PASSWORDS["alice"]))
    target = f"/v2/private/x/blobs/{DIGEST}"
    assert (await request(port, "GET", target, None, token)).status == 200
    answer = await request(port, "PUT", target, DATA, token)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == (
        'Bearer realm="http://epoch.test/v2/token",service="epoch",'
        'scope="repository:private/x:pull,push",error="insufficient_scope"'
    )
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    assert (await request(port, "GET", "/v2/team/x/tags/list", None, token)).status == 401
    # nor for another one
    assert (await request(port, "GET", "/v2/token", None, token)).status == 401
    assert (await request(port, "GET", "/v2/_catalog", None, token)).status == 401


async def test_the_ping_tells_to_sign_in(guarded: Server) -> None:
    port = guarded.port
    for fields in ((), (basic("alice", "no"),), ("Authorization: Bearer no",)):
        for method in ("GET", "HEAD"):
            answer = await request(port, method, "/v2/", None, *fields)
            assert answer.status == 401
            assert answer.headers["www-authenticate"].startswith(
                'Bearer realm="http://epoch.test/v2/token",service="epoch"'
            )
    for field in (
        basic("bob", PASSWORDS["bob"]),
        await bearer(port, None, ""),
        f"Authorization: Bearer {REGISTRY_TOKEN}",
    ):
        assert (await request(port, "GET", "/v2/", None, field)).status == 200
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await request(port, "GET", path)).status == 200


async def test_the_catalog_shows_what_its_reader_may_pull(guarded: Server) -> None:
    port = guarded.port
    for repository in REPOSITORIES:
        await push(port, repository, basic("alice", PASSWORDS["alice"]))

    async def seen(*fields: str) -> list[str]:
        answer = await request(port, "GET", "/v2/_catalog", None, *fields)
        assert answer.status == 200
        names: list[str] = json.loads(answer.body)["repositories"]
        return names

    assert await seen() == ["public/x"]
    assert await seen(basic("bob", PASSWORDS["bob"])) == ["public/x", "team/x"]
    assert await seen(await bearer(port, "bob", "registry:catalog:*")) == ["public/x", "team/x"]
    assert await seen(basic("alice", PASSWORDS["alice"])) == sorted(REPOSITORIES)


async def test_a_mount_needs_to_read_the_source(
    start_server: StartServer, variables: dict[str, str], tmp_path: Path
) -> None:
    more = '\n[[rule]]\nusers = ["bob"]\nrepositories = ["bob/**"]\nactions = ["push"]\n'
    (tmp_path / "access.toml").write_text(RULES + more)
    port = start_server(variables).port
    for repository in REPOSITORIES:
        await push(port, repository, basic("alice", PASSWORDS["alice"]))
    for source, status in (("private/x", 202), ("team/x", 201), ("public/x", 201)):
        path = f"/v2/bob/x/blobs/uploads/?mount={DIGEST}&from={source}"
        answer = await request(port, "POST", path, b"", basic("bob", PASSWORDS["bob"]))
        assert answer.status == status, source


async def test_the_token_endpoint(guarded: Server) -> None:
    port = guarded.port
    form = "Content-Type: application/x-www-form-urlencoded"

    async def post(body: str) -> int:
        return (await request(port, "POST", "/v2/token", body.encode(), form)).status

    alice = f"grant_type=password&username=alice&password={PASSWORDS['alice']}&client_id=x"
    assert await post(alice + "&scope=repository:a:pull") == 200
    assert await post("grant_type=password&username=alice&password=no") == 401
    assert await post(f"grant_type=refresh_token&refresh_token={REGISTRY_TOKEN}") == 200
    assert await post("grant_type=refresh_token&refresh_token=no") == 401
    assert await post("x=" + "x" * 70_000) == 413
    assert await post("%ff=1") == 400
    answer = await request(port, "GET", "/v2/token?service=epoch&account=a")
    reply = json.loads(answer.body)
    assert answer.headers["cache-control"] == "no-store"
    assert reply["token"] == reply["access_token"]
    assert reply["expires_in"] >= 60
    assert reply["issued_at"].endswith("Z")
    answer = await request(port, "GET", "/v2/token", None, basic("alice", "no"))
    assert answer.refusal == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_a_token_for_many_repositories_is_issued_and_taken(guarded: Server) -> None:
    """What is issued is accepted, however it is asked for; what would not be is refused."""
    port = guarded.port
    alice = basic("alice", PASSWORDS["alice"])
    form = "Content-Type: application/x-www-form-urlencoded"
    long = [f"repository:private/{number:050}:pull,push,delete" for number in range(100)]
    short = [f"repository:p/{number}:pull,push" for number in range(250)]
    for scopes in (long, short):
        query = "&".join("scope=" + quote(scope, safe=":/,") for scope in scopes)
        assert len(query) > 8192 or len(scopes) > 100
        fields = ("GET", f"/v2/token?service=epoch&{query}", None, alice)
        answers = [await request(port, *fields)]
        body = f"grant_type=password&username=alice&password={PASSWORDS['alice']}&scope="
        body += quote(" ".join(scopes))
        answers.append(await request(port, "POST", "/v2/token", body.encode(), form))
        for answer in answers:
            assert answer.status == 200, answer.body
            token = f"Authorization: Bearer {json.loads(answer.body)['token']}"
            for scope in (scopes[0], scopes[-1]):
                repository = scope.split(":")[1]
                await push(port, repository, token)
    for scopes in (
        [f"repository:{n:0200}:pull" for n in range(150)],
        [f"repository:{n}:pull" for n in range(300)],
    ):
        body = "scope=" + quote(" ".join(scopes))
        answer = await request(port, "POST", "/v2/token", body.encode(), form, alice)
        assert answer.refusal == (400, "BAD_REQUEST")
        assert b"ask for fewer" in answer.body


async def test_a_registry_token_alone_leaves_pulls_open(start_server: StartServer) -> None:
    port = start_server({"EPOCH_REGISTRY_TOKEN": REGISTRY_TOKEN}).port
    target = f"/v2/a/b/blobs/{DIGEST}"
    assert (await request(port, "PUT", target, DATA)).status == 401
    assert (await request(port, "PUT", target, DATA, "Authorization: Bearer no")).status == 401
    await push(port, "a/b", f"Authorization: Bearer {REGISTRY_TOKEN}")
    assert (await request(port, "GET", "/v2/")).status == 401
    assert (await request(port, "GET", target)).status == 200
    assert (await request(port, "GET", target, None, "Authorization: Bearer no")).status == 200
    assert (await request(port, "GET", "/v2/_catalog")).status == 200
    anonymous = await bearer(port, None, "repository:a/b:pull,push")
    assert (await request(port, "GET", target, None, anonymous)).status == 200
    assert (await request(port, "PUT", target, DATA, anonymous)).status == 401
    answer = await request(port, "GET", "/v2/token", None, basic("any", REGISTRY_TOKEN))
    assert json.loads(answer.body)["token"] == REGISTRY_TOKEN


async def test_a_user_called_operator_is_none(
    start_server: StartServer, variables: dict[str, str], tmp_path: Path
) -> None:
    entry = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"operator:{entry}\n")
    port = start_server(variables | {"EPOCH_REGISTRY_TOKEN": REGISTRY_TOKEN}).port
    answer = await request(port, "GET", "/v2/token", None, basic("operator", "pw"))
    assert answer.status == 200
    assert REGISTRY_TOKEN.encode() not in answer.body
    answer = await request(port, "PUT", f"/v2/a/b/blobs/{DIGEST}", DATA, basic("operator", "pw"))
    assert answer.status == 403


async def test_rules_without_users_are_final(
    start_server: StartServer, variables: dict[str, str]
) -> None:
    port = start_server({"EPOCH_ACCESS": variables["EPOCH_ACCESS"]}).port
    assert (await request(port, "GET", "/v2/")).status == 200
    assert (await request(port, "GET", "/v2/token")).status == 404
    assert (await request(port, "GET", "/v2/public/x/tags/list")).status == 404
    answer = await request(port, "PUT", f"/v2/public/x/blobs/{DIGEST}", DATA)
    assert answer.refusal == (403, "DENIED")


async def test_passwords_alone_are_asked_for_with_basic(
    start_server: StartServer, variables: dict[str, str]
) -> None:
    port = start_server({"EPOCH_HTPASSWD": variables["EPOCH_HTPASSWD"]}).port
    answer = await request(port, "GET", "/v2/a/b/tags/list")
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Basic realm=")
    await push(port, "a/b", basic("bob", PASSWORDS["bob"]))


async def test_the_tokens_of_another_service(
    start_server: StartServer, variables: dict[str, str], tmp_path: Path
) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "issuer.pem").write_bytes(pem)
    issuer = {"ISSUER": "them", "AUDIENCE": "us", "REALM": "https://them.example/token"}
    issuer["JWKS"] = str(tmp_path / "issuer.pem")
    settings = {f"EPOCH_TOKEN_{name}": value for name, value in issuer.items()}
    port = start_server(variables | settings).port

    def token(**changed: object) -> str:
        access = [{"type": "repository", "name": "private/x", "actions": ["push"]}]
        claims = {"iss": "them", "aud": "us", "exp": time.time() + 60, "access": access, **changed}
        return f"Authorization: Bearer {jwt.encode(claims, key, 'EdDSA')}"

    await push(port, "private/x", token())
    target = f"/v2/private/x/blobs/{DIGEST}"
    answer = await request(port, "DELETE", target, None, token())
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == (
        'Bearer realm="https://them.example/token",service="us",'
        'scope="repository:private/x:delete",error="insufficient_scope"'
    )
    for bad in (token(iss="me"), token(exp=1), token(access=[]), token(sub="alice", access=None)):
        assert (await request(port, "GET", target, None, bad)).status == 401
    assert (await request(port, "GET", "/v2/public/x/tags/list")).status == 404
    assert (await request(port, "GET", "/v2/token")).status == 404
    catalog = [{"type": "registry", "name": "catalog", "actions": ["*"]}]
    answer = await request(port, "GET", "/v2/_catalog", None, token(access=catalog))
    assert json.loads(answer.body)["repositories"] == ["private/x"]


async def test_an_issuers_keys_are_rotated(start_server: StartServer, tmp_path: Path) -> None:
    first, second = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))

    def write(key: ed25519.Ed25519PrivateKey) -> None:
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "new.pem").write_bytes(pem)
        (tmp_path / "new.pem").replace(tmp_path / "issuer.pem")

    async def status(key: ed25519.Ed25519PrivateKey) -> int:
        claims = {"iss": "them", "aud": "us", "exp": time.time() + 60}
        field = f"Authorization: Bearer {jwt.encode(claims, key, 'EdDSA')}"
        return (await request(server.port, "GET", "/v2/", None, field)).status

    write(first)
    settings = {"ISSUER": "them", "AUDIENCE": "us", "REALM": "https://them.example/token"}
    settings["JWKS"] = str(tmp_path / "issuer.pem")
    server = start_server({f"EPOCH_TOKEN_{name}": value for name, value in settings.items()})
    assert (await status(first), await status(second)) == (200, 401)
    write(second)
    server.process.send_signal(signal.SIGHUP)
    await eventually(lambda: "settings read again" in server.log())
    assert (await status(first), await status(second)) == (401, 200)


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
async def test_a_body_is_not_read_before_it_is_refused(
    guarded: Server, expect: tuple[str, ...]
) -> None:
    async with Client(guarded.port) as client:
        size = f"Content-Length: {1 << 30}"
        await client.send(head("PUT", f"/v2/a/b/blobs/{DIGEST}", None, size, *expect))
        answer = await client.answer("PUT", 2)
        assert answer.refusal == (401, "UNAUTHORIZED")
        assert await client.at_end()


def test_curl_signs_in(guarded: Server) -> None:
    url = f"http://127.0.0.1:{guarded.port}/v2/private/x/blobs/{DIGEST}"

    def status(*arguments: str) -> str:
        done = subprocess.run(
            [*curl(), "-sS", "-o", "/dev/null", "-w", "%{http_code}", *arguments],
            input=DATA, capture_output=True, timeout=30, check=True,
        )  # fmt: skip
        return done.stdout.decode()

    assert status("-T", "-", url) == "401"
    assert status("-T", "-", "-u", f"alice:{PASSWORDS['alice']}", url) == "201"
    assert status("-u", f"bob:{PASSWORDS['bob']}", url) == "403"
    assert status("--oauth2-bearer", REGISTRY_TOKEN, url) == "200"


async def test_no_secret_is_told(guarded: Server) -> None:
    port = guarded.port
    texts = []
    for field in (
        basic("alice", PASSWORDS["alice"]),
        basic("bob", "typo-of-bob"),
        f"Authorization: Bearer {REGISTRY_TOKEN}x",
    ):
        answer = await request(port, "PUT", f"/v2/private/x/blobs/{DIGEST}", DATA, field)
        texts.append(answer.body)
        answer = await request(
            port, "GET", "/v2/token?password=" + REGISTRY_TOKEN[:-1], None, field
        )
        texts.append(answer.body)
    texts.append((await request(port, "GET", "/metrics")).body)
    texts.append(guarded.log().encode())
    texts.append(command_line(guarded))
    for secret in (*PASSWORDS.values(), REGISTRY_TOKEN[:-1], "typo-of-bob", "k" * 32):
        assert not any(secret.encode() in text for text in texts)


def command_line(server: Server) -> bytes:
    """What a process list shows."""
    return Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
