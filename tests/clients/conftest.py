"""Clients, registries for them, and the matrix that is printed at the end."""

from __future__ import annotations

import datetime
import ipaddress
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from epoch.config import S3Settings
from tests.clients import programs
from tests.clients.client import Buildah, Client, Crane, Curl, Podman, Regctl, Skopeo
from tests.clients.daemons import Ctr, Daemon, Docker
from tests.clients.registry import Registry
from tests.tools.fixtures import SMALL, place
from tests.tools.server import Server

__all__ = ["place"]

StartRegistry = Callable[..., Registry]
MakeClient = Callable[[], Client]

_ALONE: dict[str, type[Client]] = {
    client.name: client for client in (Buildah, Crane, Curl, Podman, Regctl, Skopeo)
}
_COLUMNS = (
    *("push", "pull", "copy", "delete", "password", "rules", "token", "TLS"),
    *("0 bytes", "1 GiB", "4 at once", "S3"),
)
_results = pytest.StashKey[dict[tuple[str, str], str]]()


class Fleet:
    """Makes clients, and starts the daemons that they need, once."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self._home = home
        self._stack = stack
        self._daemons: dict[str, Daemon] = {}

    def make(self, name: str, home: Path) -> Client:
        """A client without a past; `Missing` where its programs are."""
        if name == "docker":
            return Docker(home, self._daemon(name, Daemon.docker))
        if name == "ctr":
            return Ctr(home, self._daemon(name, Daemon.containerd))
        return _ALONE[name](home)

    def _daemon(self, name: str, start: Callable[[Path], Daemon]) -> Daemon:
        if name not in self._daemons:
            home = self._home / name
            home.mkdir()
            self._daemons[name] = start(home)
            self._stack.callback(self._daemons[name].stop)
        return self._daemons[name]


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """All clients of this session."""
    with ExitStack() as stack:
        yield Fleet(tmp_path_factory.mktemp("daemons"), stack)


@pytest.fixture
def make_client(fleet: Fleet, client_name: str) -> Iterator[MakeClient]:
    """Makes clients of the name that a test is for. One that cannot be had is skipped; where CI is
    set, it fails unless the machine has no means to get it."""
    made = 0

    def make() -> Client:
        nonlocal made
        made += 1
        try:
            return fleet.make(client_name, Path(homes) / str(made))
        except programs.Missing as missing:
            if os.environ.get("CI") and not missing.excusable:
                pytest.fail(missing.reason)
            pytest.skip(missing.reason)

    # Not in tmp_path: podman takes no long paths.
    with tempfile.TemporaryDirectory(prefix="epoch-client-") as homes:
        yield make


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    """A client that knows nothing."""
    return make_client()


@pytest.fixture
def start_registry(place: S3Settings | Path) -> Iterator[StartRegistry]:
    """Starts a registry; at the end it must hold nothing, and stop in order."""
    registries: list[Registry] = []

    def start(extra: Mapping[str, str] | None = None, *, ca: Path | None = None) -> Registry:
        registries.append(Registry(Server(place, SMALL | dict(extra or {})), ca))
        return registries[-1]

    try:
        yield start
        for registry in registries:
            registry.assert_holds_nothing()
            registry.server.stop()
    finally:
        for registry in registries:
            registry.server.kill()


@pytest.fixture
def registry(start_registry: StartRegistry) -> Registry:
    """A registry that is open to all, over plain HTTP."""
    return start_registry()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key beside it, `key.pem`."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "epoch test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(Encoding.PEM))
    return folder / "certificate.pem"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what became of a cell of the matrix."""
    report = yield
    results = item.config.stash.setdefault(_results, {})
    spec = getattr(item, "callspec", None)
    marker = item.get_closest_marker("column")
    if spec is not None and marker is not None:
        key = (spec.params["client_name"], marker.args[0])
        if report.failed:
            results[key] = "FAIL"
        elif report.skipped:
            results.setdefault(key, "skip")
        elif report.when == "call":
            results.setdefault(key, "yes")
    return report


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "column(title): where the result stands in the matrix")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the matrix."""
    results = config.stash.get(_results, {})
    if not results:
        return
    names = sorted({name for name, _ in results})
    width = max(map(len, names), default=0) + 10
    terminalreporter.section("clients")
    terminalreporter.write_line(" " * width + "  ".join(_COLUMNS))
    for name in names:
        try:
            title = f"{name} {programs.version(name)}"
        except programs.Missing:
            title = name
        cells = (results.get((name, column), "-").ljust(len(column)) for column in _COLUMNS)
        terminalreporter.write_line(title.ljust(width) + "  ".join(cells))
    terminalreporter.write_line("-: not asked for, or nothing that the client can do")
