"""One server per store for the whole suite, and a repository of its own for every test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from epoch.config import S3Settings
from tests.conformance.client import Client
from tests.conformance.operations import Repository
from tests.tools.fixtures import place, start_server
from tests.tools.server import Server

__all__ = ["place", "start_server"]

QUICK = "tests.tools.quick"
"""A server whose deletions do not wait as long: the suite deletes all that it has pushed."""


@pytest.fixture(scope="session")
def server_over_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`epoch serve` over a directory."""
    server = Server(tmp_path_factory.mktemp("conformance") / "store", module=QUICK)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def server_over_s3(s3_server: S3Settings) -> Iterator[Server]:
    """`epoch serve` over a bucket."""
    place = replace(s3_server, prefix=f"conformance-{secrets.token_hex(8)}/")
    server = Server(place, module=QUICK)
    yield server
    server.stop()


@pytest.fixture(params=["directory", "s3"])
def server(request: pytest.FixtureRequest) -> Server:
    """A server that all tests share, over each store."""
    server: Server = request.getfixturevalue(f"server_over_{request.param}")
    return server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A connection to it. The manifests that came through it are deleted at the end: the data
    sets of different tests share blobs, and what a manifest needs is not deleted."""
    client = Client(server.port)
    yield client
    client.close()
    for url in client.pushed:
        assert client.send("DELETE", url).status in (202, 404)
    client.close()


@pytest.fixture
def name() -> str:
    """A repository that nobody else knows."""
    return f"conformance/{secrets.token_hex(8)}"


@pytest.fixture
def repository(client: Client, name: str) -> Repository:
    """That repository, as the official program uses one."""
    return Repository(client, name)


@pytest.fixture(params=["sha256", "sha512"])
def hashed(request: pytest.FixtureRequest, client: Client, name: str) -> Repository:
    """That repository, with digests of each algorithm."""
    return Repository(client, name, request.param)
