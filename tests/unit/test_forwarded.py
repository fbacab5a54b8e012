"""What is believed of a client behind a proxy."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from epoch.http.forwarded import MAX_HOPS, Proxies

PROXIES = Proxies((ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1")))


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.1.2.3", True),
        ("127.0.0.1", True),
        ("::ffff:10.1.2.3", True),
        ("fd12::1", True),
        ("127.0.0.2", False),
        ("11.1.2.3", False),
        ("::1", False),
        ("", False),
        ("10.evil.example", False),
    ],
)
def test_who_is_trusted(host: str, trusted: bool) -> None:
    assert PROXIES.trusts(host) is trusted


@pytest.mark.parametrize(
    ("sent", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.0.0.1", "192.0.2.7"),
        ("192.0.2.7,10.0.0.1 ,10.0.0.2", "192.0.2.7"),
        # What stands left of the first stranger is that stranger's own word.
        ("10.0.0.9, 198.51.100.1, 192.0.2.7, 10.0.0.1", "192.0.2.7"),
        ("127.0.0.1, 192.0.2.7", "192.0.2.7"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),  # a client within the networks
        ("192.0.2.7:51234", "192.0.2.7"),
        ("[2001:db8::7]:443, 10.0.0.1", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, unknown, 10.0.0.1", "10.0.0.1"),
        ("unknown", "peer:1"),
        ("", "peer:1"),
        ("evil status=200", "peer:1"),
    ],
)
def test_the_client_is_the_first_stranger_from_the_right(sent: str, client: str) -> None:
    assert PROXIES.client("peer:1", {"x-forwarded-for": sent}, secure=False) == (client, False)


def test_a_long_list_is_not_walked_to_its_end() -> None:
    sent = "192.0.2.7" + ", 10.0.0.1" * MAX_HOPS
    headers = {"x-forwarded-for": sent}
    assert PROXIES.client("peer:1", headers, secure=False)[0] == "192.0.2.7"
    headers = {"x-forwarded-for": sent + ", 10.0.0.1"}
    assert PROXIES.client("peer:1", headers, secure=False)[0] == "10.0.0.1"


@pytest.mark.parametrize(
    ("sent", "secure"),
    [("https", True), ("HTTPS", True), ("http", False), ("https, http", True), ("wss", False)],
)
def test_the_scheme(sent: str, secure: bool) -> None:
    headers = {"x-forwarded-proto": sent}
    assert PROXIES.client("peer:1", headers, secure=False) == ("peer:1", secure)


def test_no_scheme_leaves_what_is_known() -> None:
    for headers in ({}, {"x-forwarded-proto": "evil"}):
        assert PROXIES.client("peer:1", headers, secure=True) == ("peer:1", True)


def test_the_host_is_that_which_the_client_named() -> None:
    headers = {"host": "internal:8080", "x-forwarded-host": "registry.example.com, other"}
    PROXIES.client("peer:1", headers, secure=False)
    assert headers["host"] == "registry.example.com"
    headers = {"host": "internal:8080", "x-forwarded-host": ""}
    PROXIES.client("peer:1", headers, secure=False)
    assert headers["host"] == "internal:8080"
