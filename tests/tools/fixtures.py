"""Servers as fixtures, over each store; the suites that use them import them in `conftest.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from epoch.config import MIB, S3Settings
from epoch.store.base import Store
from epoch.store.directory.store import DirectoryStore
from tests.tools.running import Running, serving
from tests.tools.server import Server

StartServer = Callable[..., Server]

SMALL = {"EPOCH_PART_SIZE": "5MiB", "EPOCH_BUFFER_BUDGET": "64MiB"}


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> S3Settings | Path:
    """Where a server may store: a directory, or a prefix of its own in a real bucket."""
    if request.param == "directory":
        return tmp_path / "store"
    settings: S3Settings = request.getfixturevalue("s3_settings")
    return settings


def open_place(place: S3Settings | Path) -> Store:
    """The store at a place."""
    if isinstance(place, Path):
        return DirectoryStore(place)
    from epoch.store.s3.store import S3Store

    return S3Store(place)


@pytest.fixture
def start_server(place: S3Settings | Path) -> Iterator[StartServer]:
    """Starts `epoch serve` processes over the place; those still running are stopped in order."""
    servers: list[Server] = []

    def start(
        extra: Mapping[str, str] | None = None, *, before: Sequence[str] = (), port: int = 0
    ) -> Server:
        servers.append(Server(place, SMALL | dict(extra or {}), before=before, port=port))
        return servers[-1]

    try:
        yield start
        for server in servers:
            if server.process.poll() is None:
                server.stop()
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A running `epoch serve` with parts of 5 MiB, stopped in order at the end."""
    return start_server()


@pytest.fixture
async def running(place: S3Settings | Path) -> AsyncIterator[Running]:
    """A server within this loop, that must leave nothing behind."""
    store = open_place(place)
    await store.check()
    async with serving(store, budget=64 * MIB) as running:
        yield running
