"""Clients that are a command and a daemon: Docker's engine and containerd.

Both daemons are our own, keep all that they have in a folder, and serve a whole session of tests.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import time
from pathlib import Path
from typing import ClassVar, Final, Self

from tests.clients import programs
from tests.clients.client import Client
from tests.clients.images import (
    TAG,
    Content,
    Image,
    docker_archive,
    read_content,
)
from tests.clients.registry import Registry

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0

_CONTAINERD: Final = """
version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{home}/sock"
[ttrpc]
address = "{home}/ttrpc"
"""


class Daemon:
    """A daemon that runs, and answers at the socket `home/sock`."""

    def __init__(self, home: Path, command: list[str], ask: list[str]) -> None:
        """`ask`: a command that succeeds once the daemon is ready."""
        self.home = home
        self._log = (home / "log").open("wb")
        env = programs.environment(home)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=home,
        )
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run(ask, env=env, capture_output=True, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                text = (home / "log").read_text(errors="replace")
                raise AssertionError(f"{command[0]} does not start:\n{text[-4000:]}")
            time.sleep(0.05)

    @classmethod
    def docker(cls, home: Path) -> Self:
        """Docker's engine, which touches neither the network's set-up nor other engines."""
        _require_root("dockerd")
        socket = f"unix://{home / 'sock'}"
        options = [f"--host={socket}", f"--data-root={home / 'data'}", f"--pidfile={home / 'pid'}"]
        options += [f"--exec-root={home / 'exec'}", "--storage-driver=vfs", "--bridge=none"]
        options += ["--iptables=false", "--ip6tables=false", "--max-concurrent-uploads=5"]
        ask = [programs.find("docker"), "--host", socket, "version"]
        return cls(home, [programs.find("dockerd"), *options], ask)

    @classmethod
    def containerd(cls, home: Path) -> Self:
        """containerd, without what runs containers."""
        _require_root("containerd")
        (home / "config.toml").write_text(_CONTAINERD.format(home=home))
        command = [programs.find("containerd"), "--config", str(home / "config.toml")]
        return cls(
            home, command, [programs.find("ctr"), "--address", str(home / "sock"), "version"]
        )

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _require_root(command: str) -> None:
    if os.geteuid() != 0:
        raise programs.Missing(f"{command} must be started by root", excusable=False)


class Docker(Client):
    """Docker's engine, with its classic store: it makes a manifest of its own, of its own type."""

    name = "docker"
    keeps_manifest = False
    checks_certificate = False

    def __init__(self, home: Path, daemon: Daemon) -> None:
        super().__init__(home)
        self.env |= {
            "DOCKER_HOST": f"unix://{daemon.home / 'sock'}",
            "DOCKER_CONFIG": str(home / "docker"),
        }

    def sign_in(self, registry: Registry) -> None:
        login = registry.login
        assert login is not None
        words = ("--username", login.user, "--password-stdin", registry.host)
        self.run("login", *words, data=login.password)

    def push(self, image: Image, repository: str, tag: str) -> None:
        name = self.ref(repository, tag)
        archive = self.home / f"{repository.replace('/', '-')}.tar"
        docker_archive(image, archive, name)
        self.run("load", "--input", archive)
        archive.unlink()
        self.run("push", name)
        self.run("image", "rm", name)

    def pull(self, repository: str, tag: str) -> Content:
        name = self.ref(repository, tag)
        self.run("pull", name)
        pulled = self.run("image", "inspect", "--format={{index .RepoDigests 0}}", name)
        digest = pulled.strip().rpartition("@")[2]
        config = self.run("image", "inspect", "--format={{.Id}}", name).strip()
        saved = self.home / "saved.tar"
        self.run("save", "--output", saved, name)
        self.run("image", "rm", name)
        return Content(digest, config, _saved_layers(saved))

    def copy(self, repository: str, tag: str, to: str) -> None:
        source, target = self.ref(repository, tag), self.ref(to, tag)
        self.run("pull", source)
        self.run("tag", source, target)
        self.run("push", target)
        self.run("image", "rm", source, target)


def _saved_layers(archive: Path) -> tuple[str, ...]:
    """The digests of the layers in what `docker save` wrote."""
    import hashlib
    import json

    with tarfile.open(archive) as tar:

        def file(name: str) -> bytes:
            found = tar.extractfile(name)
            assert found is not None
            return found.read()

        (listed,) = json.loads(file("manifest.json"))
        return tuple(
            f"sha256:{hashlib.sha256(file(name)).hexdigest()}" for name in listed["Layers"]
        )


class Ctr(Client):
    """containerd's own command; each has a namespace of its own."""

    name = "ctr"

    _namespaces: ClassVar[int] = 0

    def __init__(self, home: Path, daemon: Daemon) -> None:
        super().__init__(home)
        self._daemon = daemon
        Ctr._namespaces += 1
        self.env["CONTAINERD_ADDRESS"] = str(daemon.home / "sock")
        self.env["CONTAINERD_NAMESPACE"] = f"test-{Ctr._namespaces}"
        self._words: list[str] = []

    def use(self, registry: Registry, *, trusted: bool = True) -> None:
        self.registry = registry
        self._words = ["--plain-http"]
        if registry.ca:
            # With --tlscacert alone it still speaks plain HTTP to 127.0.0.1, where that fails.
            hosts = self.home / "hosts" / registry.host
            hosts.mkdir(parents=True)
            lines = [f'server = "{registry.url}"', f'[host."{registry.url}"]']
            lines += [f'ca = "{registry.ca}"'] if trusted else []
            (hosts / "hosts.toml").write_text("\n".join(lines))
            self._words = ["--hosts-dir", str(hosts.parent)]
        if registry.login:
            self._words += ["--user", f"{registry.login.user}:{registry.login.password}"]

    def push(self, image: Image, repository: str, tag: str) -> None:
        archive = self.home / f"{repository.replace('/', '-')}.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(image.layout, ".")
        self.run("images", "import", "--no-unpack", "--base-name", f"local/{repository}", archive)
        archive.unlink()
        self._push(self.ref(repository, tag), f"local/{repository}:{TAG}")

    def _push(self, name: str, local: str) -> None:
        self.run("images", "push", *self._words, name, local)

    def pull(self, repository: str, tag: str) -> Content:
        name = self.ref(repository, tag)
        self.run("images", "pull", "--snapshotter=native", *self._words, name)
        listed = self.run("images", "list", f"name=={name}").splitlines()
        digest = listed[1].split()[2]
        blobs = self._daemon.home / "root/io.containerd.content.v1.content/blobs"
        content = read_content(digest, lambda at: (blobs / Path(*at.split(":"))).open("rb"))
        self.run("images", "remove", "--sync", name)
        return content

    def copy(self, repository: str, tag: str, to: str) -> None:
        self.run("content", "fetch", *self._words, self.ref(repository, tag))
        self._push(self.ref(to, tag), self.ref(repository, tag))
