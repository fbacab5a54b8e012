"""A bucket that is reached through the proxy that the environment names, and one that is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from epoch.config import SettingsError
from epoch.store.base import StoreError
from epoch.store.s3.store import S3Store
from tests.contract.scripts import CALLS, OBJECT, ONCE, saying, well
from tests.contract.stub import Script, serve


async def test_every_call_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's name is resolved by the proxy alone."""
    async with serve(well) as stub:
        endpoint = stub.settings.endpoint
        monkeypatch.setenv("HTTP_PROXY", f"http://user:proxy-secret-7d@{endpoint}")
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,elsewhere.invalid")
        store = S3Store(replace(stub.settings, endpoint="store.invalid"), ONCE)
        for name, call in CALLS.items():
            stub.calls.clear()
            await call(store)
            assert stub.calls, name
            for made in stub.calls:
                assert made.target.startswith("http://store.invalid/bucket"), name
                assert made.headers["host"] == "store.invalid", name
                assert made.headers["proxy-authorization"].startswith("Basic "), name
        await store.close()


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "", "10.0.0.0/8"])
async def test_loopback_does_not(no_proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    async with serve(well) as stub:
        store = S3Store(stub.settings, ONCE)
        assert await store.get("key", 10) == OBJECT
        await store.close()


@pytest.mark.parametrize(
    ("secure", "script"), [(True, saying(407)), (False, None)], ids=["refused", "not there"]
)
async def test_a_proxy_that_does_not_work_is_told(
    secure: bool, script: Script | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(script or well) as stub:
        endpoint = stub.settings.endpoint if script else "127.0.0.1:1"
        name = "HTTPS_PROXY" if secure else "HTTP_PROXY"
        monkeypatch.setenv(name, f"http://user:proxy-secret-7d@{endpoint}")
        store = S3Store(replace(stub.settings, endpoint="store.invalid", secure=secure), ONCE)
        with pytest.raises(StoreError, match="HTTPS_PROXY, HTTP_PROXY and NO_PROXY") as caught:
            await store.check()
        assert "proxy-secret-7d" not in str(caught.value)
        await store.close()


async def test_a_proxy_that_cannot_be_used_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1080")
    async with serve(well) as stub:
        S3Store(stub.settings)  # on this machine: no proxy
        with pytest.raises(SettingsError, match="HTTP_PROXY"):
            S3Store(replace(stub.settings, endpoint="store.invalid"))
