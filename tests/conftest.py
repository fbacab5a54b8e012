"""Fixtures that any test may use: a real S3 server, and settings for a place of one's own in it."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
import uvloop

from epoch.config import S3Settings
from tests.tools.seaweedfs import READER, SeaweedFS


def pytest_configure() -> None:
    """Nothing that whoever runs the tests has set up leads them, or what they start, elsewhere."""
    for name in list(os.environ):
        other = name.startswith("AWS_") and name != "AWS_CA_BUNDLE"
        if other or name.lower().endswith("_proxy"):
            del os.environ[name]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test runs on the loop that `epoch serve` runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Settings]:
    """A SeaweedFS of our own, with an empty prefix in a bucket that exists."""
    server = SeaweedFS()
    try:
        server.start()
        server.wait()
        yield server.settings
    finally:
        server.remove()


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> S3Settings:
    """The S3 server under test: what EPOCH_TEST_S3_* name, else a SeaweedFS of our own."""
    endpoint = os.environ.get("EPOCH_TEST_S3_ENDPOINT")
    if endpoint is None:
        server: S3Settings = request.getfixturevalue("seaweedfs")
        return server
    return S3Settings(
        endpoint=endpoint.rpartition("://")[2],
        access_key=os.environ["EPOCH_TEST_S3_ACCESS_KEY"],
        secret_key=os.environ["EPOCH_TEST_S3_SECRET_KEY"],
        bucket=os.environ["EPOCH_TEST_S3_BUCKET"],
        region=os.environ.get("EPOCH_TEST_S3_REGION", "us-east-1"),
        secure=endpoint.startswith("https://"),
        prefix="",
    )


@pytest.fixture
def s3_settings(s3_server: S3Settings) -> S3Settings:
    """Settings with a prefix that no other test has, in a bucket that exists."""
    return replace(s3_server, prefix=f"t-{secrets.token_hex(8)}/")


@pytest.fixture
def s3_reader(s3_settings: S3Settings) -> S3Settings:
    """The same place for somebody who may only read."""
    if "EPOCH_TEST_S3_ENDPOINT" in os.environ:
        pytest.skip("this S3 server has no key that may only read")
    return replace(s3_settings, access_key=READER)
