"""Settings: what is refused, and that no secret shows."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from epoch.config import (
    KIB,
    MIB,
    AuthSettings,
    HttpSettings,
    S3Settings,
    Settings,
    SettingsError,
    StoreSettings,
    UploadSettings,
)


def test_defaults_fit_each_other() -> None:
    settings = Settings()
    assert settings.upload.part_size <= settings.upload.budget
    assert settings.store.s3 is None
    assert settings.http.port == 8080


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().http.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"part_size": 5 * MIB - 1}, "5MiB"),
        ({"part_size": 6 << 30, "budget": 8 << 30}, "5GiB"),
        ({"part_size": 16 * MIB, "budget": 16 * MIB - 1}, "budget"),
        # The pool lends powers of two: one part of 17 MiB takes 32 MiB of the budget.
        ({"part_size": 17 * MIB, "budget": 31 * MIB}, str(32 * MIB)),
        ({"parts_in_flight": 0}, "parts in flight"),
        ({"receive_window": 4 * KIB - 1}, "receive window"),
        ({"receive_window": 17 * MIB}, "receive window"),
        ({"max_blob": 0}, "max blob"),
    ],
)
def test_upload_settings_that_cannot_work_are_refused(fields: dict[str, int], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        UploadSettings(**fields)


def test_edges_of_upload_settings_are_taken() -> None:
    UploadSettings(part_size=5 * MIB, budget=8 * MIB)
    UploadSettings(part_size=17 * MIB, budget=32 * MIB, receive_window=17 * MIB)


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_out_of_range_are_refused(port: int) -> None:
    with pytest.raises(SettingsError, match="port"):
        HttpSettings(port=port)


def test_negative_grace_is_refused() -> None:
    with pytest.raises(SettingsError, match="grace"):
        HttpSettings(shutdown_grace=-1)


def test_unknown_log_level_is_refused() -> None:
    with pytest.raises(SettingsError, match="debug, info, warn, error"):
        Settings(log_level="loud")


def test_the_secret_key_is_in_no_repr() -> None:
    s3 = S3Settings("host:9000", "id", "s3cr3t", "bucket", secure=False)
    settings = Settings(store=StoreSettings(s3=s3))
    assert "s3cr3t" not in repr(settings)
    assert "host:9000" in repr(settings)
    assert s3.url == "http://host:9000"
    assert dataclasses.replace(s3, secure=True).url == "https://host:9000"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"token_issuer": "i"}, "go together"),
        ({"token_audience": "a", "token_realm": "https://a"}, "go together"),
        ({"token_key": Path("k")}, "without users"),
        ({"public_url": "registry.example.com"}, "--public-url is not a URL"),
        ({"public_url": 'https://a"b'}, "--public-url is not a URL"),
        ({"public_url": "https://a/b\n"}, "--public-url is not a URL"),
        (
            {
                "token_issuer": "i",
                "token_audience": "a",
                "token_jwks": Path("j"),
                "token_realm": 'https://a/"',
            },
            "--token-realm is not a URL",
        ),
        (
            {
                "token_issuer": "i",
                "token_audience": "a",
                "token_jwks": Path("j"),
                "token_realm": "https://a/token",
                "token_key": Path("k"),
                "htpasswd": Path("h"),
            },
            "drop one of the two",
        ),
    ],
)
def test_access_settings_that_do_not_fit_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        AuthSettings(**fields)


def test_the_registry_token_is_in_no_repr() -> None:
    settings = Settings(auth=AuthSettings(registry_token="s3cr3t"))
    assert "s3cr3t" not in repr(settings)
