"""What people push and pull with, against a real `epoch serve`: `make clients`."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from epoch.config import GIB, KIB, MIB
from tests.clients.client import Client, Failed
from tests.clients.conftest import MakeClient, StartRegistry
from tests.clients.images import Content, Image, make_image
from tests.clients.registry import Login, Registry

CLIENTS = ("docker", "podman", "buildah", "skopeo", "crane", "regctl", "ctr", "curl")
DELETING = ("skopeo", "crane", "regctl", "curl")
"""Those that have a command to delete."""

TAKING_NOTHING = tuple(name for name in CLIENTS if name != "ctr")
"""Those that know blobs of 0 bytes: containerd 1.6 refuses to fetch one ("content size of zero"),
and ends with a nil dereference where it is to push one."""

GIVES_UP_SECONDS = 25.0
"""How long a client may take to see that it is refused. Docker tries for 50 s when it does not."""

directory = pytest.mark.parametrize("place", ["directory"], indirect=True)
s3 = pytest.mark.parametrize("place", ["s3"], indirect=True)
column = pytest.mark.column


def each(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client_name", names)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image with a layer of several parts, and a small one."""
    return make_image(tmp_path / "image", 12 * MIB, 10 * KIB)


def expected(client: Client, image: Image) -> Content:
    """What must be in the registry after a push."""
    return image.content if client.keeps_manifest else replace(image.content, digest="")


def seen(client: Client, content: Content) -> Content:
    """Content as `expected` tells it."""
    return content if client.keeps_manifest else replace(content, digest="")


def push_and_pull(client: Client, registry: Registry, image: Image, name: str = "a/b") -> None:
    """Push one image, and pull it again."""
    client.push(image, name, "1")
    stored = registry.content(name, "1")
    assert seen(client, stored) == expected(client, image)
    assert seen(client, client.pull(name, "1")) == expected(client, image)


@column("push")
@directory
@each(*CLIENTS)
def test_push(client: Client, registry: Registry, image: Image) -> None:
    client.use(registry)
    client.push(image, "team/app", "1.0")
    assert seen(client, registry.content("team/app", "1.0")) == expected(client, image)
    # And once more, when all is there.
    client.push(image, "team/app", "1.1")
    assert registry.tags("team/app") == ["1.0", "1.1"]


@column("pull")
@directory
@each(*CLIENTS)
def test_pull(client: Client, registry: Registry, image: Image) -> None:
    registry.put_image(image, "team/app", "1.0")
    client.use(registry)
    assert seen(client, client.pull("team/app", "1.0")) == expected(client, image)


@column("copy")
@directory
@each(*CLIENTS)
def test_copy_to_another_repository(client: Client, registry: Registry, image: Image) -> None:
    registry.put_image(image, "team/app", "1.0")
    client.use(registry)
    client.copy("team/app", "1.0", "other/app")
    assert seen(client, registry.content("other/app", "1.0")) == expected(client, image)
    # The layers were mounted, or found there: they were not sent once more.
    assert registry.received("other/app") < 10 * KIB


@column("delete")
@directory
@each(*DELETING)
def test_delete(client: Client, registry: Registry, image: Image) -> None:
    registry.put_image(image, "team/app", "1.0")
    client.use(registry)
    client.delete("team/app", "1.0")
    assert not registry.has("team/app", "1.0")


def users(folder: Path, *logins: Login, signing: bool) -> dict[str, str]:
    """Settings of a registry with these users; `signing`: that signs tokens."""
    import bcrypt

    salt = bcrypt.gensalt(4)
    hashed = {login.user: bcrypt.hashpw(login.password.encode(), salt) for login in logins}
    lines = [f"{user}:{entry.decode()}\n" for user, entry in hashed.items()]
    (folder / "htpasswd").write_text("".join(lines))
    settings = {"EPOCH_HTPASSWD": str(folder / "htpasswd")}
    if signing:
        (folder / "token-key").write_text(secrets.token_hex(32))
        settings["EPOCH_TOKEN_KEY"] = str(folder / "token-key")
    return settings


@column("password")
@directory
@each(*CLIENTS)
@pytest.mark.parametrize("signing", [False, True], ids=["basic", "tokens"])
def test_htpasswd(
    make_client: MakeClient,
    start_registry: StartRegistry,
    image: Image,
    tmp_path: Path,
    signing: bool,
) -> None:
    """A user of the file, with Basic alone and with tokens that the registry signs."""
    login = Login("alice", secrets.token_urlsafe(12))
    registry = replace(start_registry(users(tmp_path, login, signing=signing)), login=login)
    assert_needs_login(make_client, registry, image, also_for_pull=True)


@column("rules")
@directory
@each(*CLIENTS)
@pytest.mark.parametrize("signing", [False, True], ids=["basic", "tokens"])
def test_user_who_may_only_pull(
    make_client: MakeClient,
    start_registry: StartRegistry,
    image: Image,
    tmp_path: Path,
    signing: bool,
) -> None:
    """Blobs that are there already are not asked for, so that it is the manifest that is refused;
    and then those that are not."""
    alice, bob = (Login(user, secrets.token_urlsafe(12)) for user in ("alice", "bob"))
    (tmp_path / "access").write_text(
        '[[rule]]\nusers = ["alice"]\nrepositories = ["**"]\nactions = ["push"]\n'
        '[[rule]]\nusers = ["bob"]\nrepositories = ["**"]\nactions = ["pull"]\n'
    )
    settings = users(tmp_path, alice, bob, signing=signing)
    registry = start_registry(settings | {"EPOCH_ACCESS": str(tmp_path / "access")})
    replace(registry, login=alice).put_image(image, "team/app", "1.0")
    registry = replace(registry, login=bob)
    client = make_client()
    client.use(registry)
    assert seen(client, client.pull("team/app", "1.0")) == expected(client, image)
    for pushed in (image, make_image(tmp_path / "unknown", 10 * KIB)):
        started = time.monotonic()
        with pytest.raises(Failed, match=r"(?i)denied|unauthorized|40[13]"):
            client.push(pushed, "other/app", "1.0")
        assert time.monotonic() - started < GIVES_UP_SECONDS
    assert not registry.has("other/app", "1.0")


@column("token")
@directory
@each(*CLIENTS)
def test_registry_token(
    make_client: MakeClient, start_registry: StartRegistry, image: Image
) -> None:
    token = secrets.token_urlsafe(24)
    registry = start_registry({"EPOCH_REGISTRY_TOKEN": token})
    registry = replace(registry, login=Login("whoever", token))
    assert_needs_login(make_client, registry, image, also_for_pull=False)
    assert token not in registry.server.log()


def assert_needs_login(
    make_client: MakeClient, registry: Registry, image: Image, *, also_for_pull: bool
) -> None:
    """Nothing goes without signing in, nor with a wrong password; all goes with the right one."""
    assert registry.login is not None
    stranger = make_client()
    stranger.use(registry.without_login())
    started = time.monotonic()
    with pytest.raises(
        Failed, match=r"(?i)unauthorized|401|authentication (is )?required|no basic"
    ):
        stranger.push(image, "team/app", "1.0")
    assert time.monotonic() - started < GIVES_UP_SECONDS
    intruder = make_client()
    wrong = replace(registry, login=replace(registry.login, password="wrong"))

    def intrude() -> None:
        # Some try the password when they are told it, others when they need it.
        intruder.use(wrong)
        intruder.push(image, "team/app", "1.0")

    with pytest.raises(Failed, match=r"(?i)unauthorized|401|(username.|password){2}"):
        intrude()
    assert not registry.has("team/app", "1.0")
    client = make_client()
    client.use(registry)
    push_and_pull(client, registry, image, "team/app")
    anybody = make_client()
    anybody.use(registry.without_login())
    if also_for_pull:
        with pytest.raises(Failed):
            anybody.pull("team/app", "1")
    else:
        pulled = anybody.pull("team/app", "1")
        assert seen(anybody, pulled) == expected(anybody, image)


@column("TLS")
@directory
@each(*CLIENTS)
def test_tls(
    make_client: MakeClient, start_registry: StartRegistry, image: Image, certificate: Path
) -> None:
    key = certificate.with_name("key.pem")
    extra = {"EPOCH_TLS_CERT": str(certificate), "EPOCH_TLS_KEY": str(key)}
    registry = start_registry(extra, ca=certificate)
    client = make_client()
    if client.checks_certificate:
        client.use(registry, trusted=False)
        with pytest.raises(Failed, match=r"(?i)certificate"):
            client.push(image, "team/app", "1.0")
        assert not registry.has("team/app", "1.0")
        client = make_client()
    client.use(registry)
    push_and_pull(client, registry, image)


@column("0 bytes")
@directory
@each(*TAKING_NOTHING)
def test_layer_of_0_bytes(client: Client, registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", 10 * KIB, 0)
    client.use(registry)
    push_and_pull(client, registry, image)


@column("1 GiB")
@directory
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "client_name",
    [pytest.param(name, marks=[] if name == "crane" else [pytest.mark.slow]) for name in CLIENTS],
)
def test_layer_of_1_gib(client: Client, registry: Registry, tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", GIB)
    client.use(registry)
    push_and_pull(client, registry, image)


@column("4 at once")
@directory
@each(*CLIENTS)
def test_four_at_once(make_client: MakeClient, registry: Registry, tmp_path: Path) -> None:
    """Four pushes that share a layer, to four repositories, while nothing is there yet."""
    base = make_image(tmp_path / "base", 8 * MIB)
    images = [make_image(tmp_path / f"image-{i}", 6 * MIB, shared=base.layout) for i in range(4)]
    clients = [make_client() for _ in images]
    for client in clients:
        client.use(registry)
    names = [f"team/app-{i}" for i in range(4)]
    with ThreadPoolExecutor(4) as threads:
        done = [
            threads.submit(client.push, image, name, "1")
            for client, image, name in zip(clients, images, names, strict=True)
        ]
        for future in done:
            future.result()
    for client, image, name in zip(clients, images, names, strict=True):
        assert seen(client, registry.content(name, "1")) == expected(client, image)


@column("S3")
@s3
@each(*CLIENTS)
def test_on_s3(client: Client, registry: Registry, tmp_path: Path) -> None:
    """Push, pull and copy with a bucket behind it."""
    image = make_image(tmp_path / "image", 24 * MIB, 10 * KIB)
    client.use(registry)
    push_and_pull(client, registry, image)
    client.copy("a/b", "1", "c/d")
    assert seen(client, registry.content("c/d", "1")) == expected(client, image)
