"""What the tests ask of a client, and the clients that are one program without a daemon."""

from __future__ import annotations

import json
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from tests.clients import programs
from tests.clients.images import (
    EMPTY,
    MANIFEST,
    TAG,
    Content,
    Image,
    blob_path,
    layout_content,
    read_content,
)
from tests.clients.registry import Registry

_LIMIT = 300.0
"""Seconds that one command may take."""


class Failed(Exception):
    """A client's command ended with an error; the text is what it printed."""


class Client(ABC):
    """A program of its own state, in a folder. Used for one registry, which `use` names."""

    name: ClassVar[str]
    keeps_manifest: ClassVar[bool] = True
    """Whether what it pushes has the digest of what it was given; else it writes a manifest of
    its own."""
    checks_certificate: ClassVar[bool] = True
    """Whether it checks the certificate of a registry at 127.0.0.1."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True)
        self.home = home
        self.program = programs.find(self.name)
        self.env = programs.environment(home)
        self.registry: Registry

    def run(self, *arguments: str | Path, data: str | None = None) -> str:
        """What the program prints to stdout; `Failed` where it says that it failed."""
        done = subprocess.run(
            [self.program, *map(str, arguments)],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            text=True,
            check=False,
            env=self.env,
            cwd=self.home,
            timeout=_LIMIT,
        )
        if done.returncode:
            words = " ".join(map(str, arguments))
            raise Failed(f"{self.name} {words}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def use(self, registry: Registry, *, trusted: bool = True) -> None:
        """Go to that registry, as its login says. `trusted`: knowing its CA, where it has one."""
        self.registry = registry
        if registry.ca and trusted:
            # What Go programs take for the system's.
            self.env["SSL_CERT_FILE"] = str(registry.ca)
        if registry.login:
            self.sign_in(registry)

    def sign_in(self, registry: Registry) -> None:
        """Sign in as a user of the client does."""
        raise NotImplementedError

    def ref(self, repository: str, tag: str) -> str:
        """The name of an image in the registry."""
        return f"{self.registry.host}/{repository}:{tag}"

    @abstractmethod
    def push(self, image: Image, repository: str, tag: str) -> None:
        """Push the image."""

    @abstractmethod
    def pull(self, repository: str, tag: str) -> Content:
        """Pull an image, and say what arrived by the bytes that the client stored."""

    @abstractmethod
    def copy(self, repository: str, tag: str, to: str) -> None:
        """Copy an image to another repository, under the same tag."""

    def delete(self, repository: str, tag: str) -> None:
        """Delete an image."""
        raise NotImplementedError


class Crane(Client):
    """go-containerregistry."""

    name = "crane"

    def sign_in(self, registry: Registry) -> None:
        login = registry.login
        assert login is not None
        words = ("--username", login.user, "--password-stdin", registry.host)
        self.run("auth", "login", *words, data=login.password)

    def push(self, image: Image, repository: str, tag: str) -> None:
        self.run("push", image.layout, self.ref(repository, tag))

    def pull(self, repository: str, tag: str) -> Content:
        self.run("pull", "--format=oci", self.ref(repository, tag), self.home / "pulled")
        return layout_content(self.home / "pulled")

    def copy(self, repository: str, tag: str, to: str) -> None:
        self.run("copy", self.ref(repository, tag), self.ref(to, tag))

    def delete(self, repository: str, tag: str) -> None:
        digest = self.run("digest", self.ref(repository, tag)).strip()
        self.run("delete", f"{self.registry.host}/{repository}@{digest}")


class Regctl(Client):
    """regclient."""

    name = "regctl"

    def use(self, registry: Registry, *, trusted: bool = True) -> None:
        words = ["--tls", "enabled" if registry.ca else "disabled", "--skip-check"]
        if registry.ca and trusted:
            words += ["--cacert", registry.ca.read_text()]
        self.run("registry", "set", registry.host, *words)
        self.registry = registry
        if registry.login:
            self.sign_in(registry)

    def sign_in(self, registry: Registry) -> None:
        login = registry.login
        assert login is not None
        words = ("--user", login.user, "--pass-stdin", registry.host)
        self.run("registry", "login", *words, data=login.password)

    def push(self, image: Image, repository: str, tag: str) -> None:
        self.run("image", "copy", f"ocidir://{image.layout}:{TAG}", self.ref(repository, tag))

    def pull(self, repository: str, tag: str) -> Content:
        target = self.home / "pulled"
        self.run("image", "copy", self.ref(repository, tag), f"ocidir://{target}:{TAG}")
        return layout_content(target)

    def copy(self, repository: str, tag: str, to: str) -> None:
        self.run("image", "copy", self.ref(repository, tag), self.ref(to, tag))

    def delete(self, repository: str, tag: str) -> None:
        self.run("manifest", "delete", "--force-tag-dereference", self.ref(repository, tag))


class Skopeo(Client):
    """containers/image, as skopeo."""

    name = "skopeo"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.env["REGISTRY_AUTH_FILE"] = str(home / "auth.json")

    def _words(self, side: str = "") -> list[str]:
        return [] if self.registry.ca else [f"--{side}tls-verify=false"]

    def sign_in(self, registry: Registry) -> None:
        login = registry.login
        assert login is not None
        words = ("--username", login.user, "--password-stdin", registry.host)
        self.run("login", *self._words(), *words, data=login.password)

    def _copy(self, *words: str) -> None:
        self.run("--insecure-policy", "copy", "--preserve-digests", *words)

    def push(self, image: Image, repository: str, tag: str) -> None:
        target = f"docker://{self.ref(repository, tag)}"
        self._copy(*self._words("dest-"), f"oci:{image.layout}:{TAG}", target)

    def pull(self, repository: str, tag: str) -> Content:
        source = f"docker://{self.ref(repository, tag)}"
        self._copy(*self._words("src-"), source, f"oci:{self.home / 'pulled'}:{TAG}")
        return layout_content(self.home / "pulled")

    def copy(self, repository: str, tag: str, to: str) -> None:
        sides = [*self._words("src-"), *self._words("dest-")]
        names = (f"docker://{self.ref(name, tag)}" for name in (repository, to))
        self._copy(*sides, *names)

    def delete(self, repository: str, tag: str) -> None:
        self.run("delete", *self._words(), f"docker://{self.ref(repository, tag)}")


class _Storage(Client):
    """containers/image over a local storage of images."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        logins = home / "auth.json"
        logins.write_text("{}")
        self.env["REGISTRY_AUTH_FILE"] = str(logins)
        policy = home / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        self._policy = f"--signature-policy={policy}"
        self._storage = [f"--root={home / 'root'}", f"--runroot={home / 'run'}"]
        self._storage.append("--storage-driver=vfs")

    def _words(self) -> list[str]:
        return [] if self.registry.ca else ["--tls-verify=false"]

    def sign_in(self, registry: Registry) -> None:
        login = registry.login
        assert login is not None
        words = ("--username", login.user, "--password-stdin", registry.host)
        self.run(*self._storage, "login", *self._words(), *words, data=login.password)

    def push(self, image: Image, repository: str, tag: str) -> None:
        pulled = self._pull(f"oci:{image.layout}:{TAG}")
        self._push(pulled, self.ref(repository, tag))

    def _pull(self, name: str) -> str:
        """The id of an image that is now in the storage."""
        words = [*self._words()] if name.startswith(self.registry.host) else []
        return self.run(*self._storage, "pull", "--quiet", self._policy, *words, name).strip()

    def _push(self, name: str, to: str) -> None:
        self.run(*self._storage, "push", self._policy, *self._words(), name, f"docker://{to}")

    def pull(self, repository: str, tag: str) -> Content:
        pulled = self._pull(self.ref(repository, tag))
        target = self.home / "pulled"
        self.run(*self._storage, "push", self._policy, pulled, f"oci:{target}:{TAG}")
        return layout_content(target)

    def copy(self, repository: str, tag: str, to: str) -> None:
        self._push(self._pull(self.ref(repository, tag)), self.ref(to, tag))


class Podman(_Storage):
    """podman."""

    name = "podman"
    keeps_manifest = False


class Buildah(_Storage):
    """buildah."""

    name = "buildah"
    keeps_manifest = False


class Curl(Client):
    """Whatever a script may do."""

    name = "curl"

    def use(self, registry: Registry, *, trusted: bool = True) -> None:
        self.registry = registry
        lines = ["silent", "show-error", "fail-with-body"]
        if registry.ca and trusted:
            lines.append(f'cacert = "{registry.ca}"')
        if registry.login:
            lines.append(f'user = "{registry.login.user}:{registry.login.password}"')
        (self.home / ".curlrc").write_text("\n".join(lines))

    def _send(self, method: str, target: str, *words: str | Path) -> str:
        return self.run("--request", method, self.registry.url + target, *words)

    def push(self, image: Image, repository: str, tag: str) -> None:
        for digest in image.blobs:
            self._push_blob(image.path(digest), repository, digest)
        self._put_manifest(image.path(image.content.digest), repository, tag)

    def _push_blob(self, file: Path, repository: str, digest: str) -> None:
        """The two requests of the specification."""
        head = self._send("POST", f"/v2/{repository}/blobs/uploads/", "--include")
        (location,) = (
            line.partition(":")[2].strip()
            for line in head.splitlines()
            if line.lower().startswith("location:")
        )
        target = location + ("&" if "?" in location else "?") + f"digest={digest}"
        self._send("PUT", target, *self._body(file))

    def _body(self, file: Path, media_type: str = "application/octet-stream") -> list[str]:
        return ["--header", f"Content-Type: {media_type}", "--upload-file", str(file)]

    def _put_manifest(self, file: Path, repository: str, tag: str) -> None:
        self._send("PUT", f"/v2/{repository}/manifests/{tag}", *self._body(file, MANIFEST))

    def pull(self, repository: str, tag: str) -> Content:
        layout = self.home / "pulled"
        blob_path(layout, EMPTY).parent.mkdir(parents=True)
        got = self.home / "manifest"
        accept = ("--header", f"Accept: {MANIFEST}")
        head = self._send(
            "GET",
            f"/v2/{repository}/manifests/{tag}",
            *accept,
            "--output",
            got,
            "--dump-header",
            "-",
        )
        (digest,) = (
            line.partition(":")[2].strip()
            for line in head.splitlines()
            if line.lower().startswith("docker-content-digest:")
        )
        got.rename(blob_path(layout, digest))
        for blob in _blobs(blob_path(layout, digest)):
            at = blob_path(layout, blob)
            self._send("GET", f"/v2/{repository}/blobs/{blob}", "--output", at)
            # It makes no file of an answer without a body.
            at.touch()
        return read_content(digest, lambda at: blob_path(layout, at).open("rb"))

    def copy(self, repository: str, tag: str, to: str) -> None:
        file = self.home / "manifest"
        self._send("GET", f"/v2/{repository}/manifests/{tag}", "--output", file)
        for blob in _blobs(file):
            self._send("POST", f"/v2/{to}/blobs/uploads/?mount={blob}&from={repository}")
        self._put_manifest(file, to, tag)

    def delete(self, repository: str, tag: str) -> None:
        self._send("DELETE", f"/v2/{repository}/manifests/{tag}")


def _blobs(manifest: Path) -> list[str]:
    document = json.loads(manifest.read_bytes())
    listed = [document["config"], *document["layers"]]
    return list(dict.fromkeys(descriptor["digest"] for descriptor in listed))
