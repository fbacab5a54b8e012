"""TLS with real certificates and a real curl: pushes, pulls, client certificates, new ones."""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from tests.tools.authority import Authority
from tests.tools.client import digest_of
from tests.tools.fixtures import StartServer
from tests.tools.machine import curl
from tests.tools.running import eventually
from tests.tools.server import Server

pytestmark = pytest.mark.parametrize("place", ["directory"], indirect=True)

DATA = random.Random(4).randbytes(64 << 20)
DIGEST = digest_of(DATA)


@dataclass
class Secure:
    """A server that speaks TLS, and the files that it was given."""

    server: Server
    authority: Authority
    cert: Path
    key: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.port}"

    def curl(self, *arguments: str, data: bytes = b"") -> str:
        done = subprocess.run(
            [*curl(), "-sS", "--max-time", "60", "--cacert", str(self.authority.path), *arguments],
            input=data, capture_output=True, timeout=90, check=True,
        )  # fmt: skip
        return done.stdout.decode()

    def push(self, *arguments: str, digest: str = DIGEST) -> str:
        status = ("-o", "/dev/null", "-w", "%{http_code}")
        url = f"{self.url}/v2/a/b/blobs/{digest}"
        return self.curl("-T", "-", *status, *arguments, url, data=DATA)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def secure(start_server: StartServer, authority: Authority) -> Secure:
    curl()  # or the test is skipped
    cert, key = authority.issue("first")
    server = start_server({"EPOCH_TLS_CERT": str(cert), "EPOCH_TLS_KEY": str(key)})
    return Secure(server, authority, cert, key)


def test_push_and_pull(secure: Secure, tmp_path: Path) -> None:
    length = f"Content-Length: {len(DATA)}"
    assert secure.push(digest="sha256:" + "0" * 64) == "400"
    assert secure.push("-H", "Transfer-Encoding:", "-H", length) == "201"
    assert secure.push() == "201"  # chunked, and already there
    target = f"{secure.url}/v2/a/b/blobs/{DIGEST}"
    got = tmp_path / "got"
    for more in ((), ("-H", "Connection: close"), ("--http1.0",)):
        assert secure.curl("-o", str(got), "-w", "%{http_code}", *more, target) == "200"
        assert hashlib.sha256(got.read_bytes()).hexdigest() == DIGEST[7:]
    secure.curl("-r", "1000-1999", "-o", str(got), target)
    assert got.read_bytes() == DATA[1000:2000]


def test_one_connection_many_requests(secure: Secure) -> None:
    ping = f"{secure.url}/v2/"
    done = secure.curl("-w", "%{num_connects} %{http_version}\n", ping, ping, ping)
    assert done == "{}1 1.1\n{}0 1.1\n{}0 1.1\n"


def test_an_early_refusal_is_seen(secure: Secure) -> None:
    status = ("-o", "/dev/null", "-w", "%{http_code}")
    target = f"{secure.url}/v2/A/b/blobs/{DIGEST}"
    assert secure.curl("-T", "-", *status, "-H", "Expect:", target, data=DATA) == "400"


def subject(secure: Secure, version: ssl.TLSVersion) -> str:
    """Who the server says it is; the handshake must offer ALPN http/1.1."""
    context = ssl.create_default_context(cafile=str(secure.authority.path))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])

    with (
        socket.create_connection(("127.0.0.1", secure.server.port), 20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        assert connection.selected_alpn_protocol() == "http/1.1"
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    (name,) = x509.load_der_x509_certificate(der).subject
    return str(name.value)


def test_new_certificates_without_a_restart(secure: Secure) -> None:
    assert secure.push() == "201"
    target = f"{secure.url}/v2/a/b/blobs/{DIGEST}"
    with subprocess.Popen(
        [*curl(), "-sS", "--limit-rate", "40M", "--cacert", str(secure.authority.path), target],
        stdout=subprocess.PIPE,
    ) as pull:
        assert pull.stdout is not None
        received = [pull.stdout.read(1 << 20)]
        cert, key = secure.authority.issue("second")
        secure.cert.write_bytes(cert.read_bytes())
        secure.server.process.send_signal(signal.SIGHUP)  # the key is still the first one's
        asyncio.run(eventually(lambda: "stays as it was" in secure.server.log()))
        assert subject(secure, ssl.TLSVersion.TLSv1_3) == "first"
        secure.key.write_bytes(key.read_bytes())
        secure.server.process.send_signal(signal.SIGHUP)
        asyncio.run(eventually(lambda: "certificate read again" in secure.server.log()))
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert subject(secure, version) == "second"
        received.append(pull.stdout.read())
    assert pull.returncode == 0
    assert b"".join(received) == DATA


def test_old_versions_of_tls_are_refused(secure: Secure) -> None:
    context = ssl.create_default_context(cafile=str(secure.authority.path))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    with (
        socket.create_connection(("127.0.0.1", secure.server.port), 20) as plain,
        pytest.raises(OSError, match=r"(?i)ssl|tls|reset|closed"),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize("arguments", [[], ["-I"], ["-T", "-", "-H", "Expect:"]])
def test_plain_http_on_the_tls_port_is_told_so(secure: Secure, arguments: list[str]) -> None:
    plain = secure.url.replace("https", "http") + "/v2/"
    done = subprocess.run(
        [*curl(), "-sS", "-i", *arguments, plain],
        input=DATA if "-T" in arguments else b"",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.startswith(b"HTTP/1.1 400 ")
    if "-I" not in arguments:
        assert done.stdout.endswith(
            b"\n\r\nThis port speaks TLS, and you sent plain HTTP: use https.\n"
        )
    assert "Traceback" not in secure.server.log()
    assert subject(secure, ssl.TLSVersion.TLSv1_3) == "first"


def test_client_certificates(start_server: StartServer, authority: Authority) -> None:
    cert, key = authority.issue("server")
    clients = Authority(authority.folder, "clients")
    files = {"CERT": cert, "KEY": key, "CLIENT_CA": clients.path}
    server = start_server({f"EPOCH_TLS_{name}": str(path) for name, path in files.items()})
    secure = Secure(server, authority, cert, key)
    known, known_key = clients.issue("known")
    stranger, stranger_key = authority.issue("stranger")
    ping = f"{secure.url}/v2/"
    assert secure.curl("--cert", str(known), "--key", str(known_key), ping) == "{}"
    for more in ((), ("--cert", str(stranger), "--key", str(stranger_key))):
        with pytest.raises(subprocess.CalledProcessError):
            secure.curl(*more, ping)
    # another authority from now on
    clients.path.write_bytes(authority.path.read_bytes())
    server.process.send_signal(signal.SIGHUP)
    asyncio.run(eventually(lambda: "certificate read again" in server.log()))
    assert secure.curl("--cert", str(stranger), "--key", str(stranger_key), ping) == "{}"
    with pytest.raises(subprocess.CalledProcessError):
        secure.curl("--cert", str(known), "--key", str(known_key), ping)


def test_files_that_do_not_fit_are_one_line(
    start_server: StartServer, authority: Authority
) -> None:
    cert, key = authority.issue("good")
    _, other = authority.issue("other")
    _, encrypted = authority.issue("encrypted", b"password")
    missing = authority.folder / "missing"
    for files, told in (
        ({"CERT": cert}, "--tls-key"),
        ({"CLIENT_CA": cert}, "--tls-cert"),
        ({"CERT": missing, "KEY": key}, "missing: No such file"),
        ({"CERT": cert, "KEY": missing}, "missing: No such file"),
        ({"CERT": cert, "KEY": other}, "is not that of the certificate"),
        ({"CERT": cert, "KEY": encrypted}, "encrypted"),
        ({"CERT": key, "KEY": key}, "no certificate and key in PEM"),
        ({"CERT": cert, "KEY": key, "CLIENT_CA": key}, "no certificate in PEM"),
    ):
        with pytest.raises(AssertionError, match=told) as caught:
            start_server({f"EPOCH_TLS_{name}": str(path) for name, path in files.items()})
        assert "Traceback" not in str(caught.value)
