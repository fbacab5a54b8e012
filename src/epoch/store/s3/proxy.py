"""Which proxy leads to the bucket: the environment, read as Go programs read it.

Source: golang.org/x/net/http/httpproxy. Kubernetes, systemd units and container images carry these
variables for Go programs, whose rules differ from those of Python's `urllib`: a network in CIDR
notation counts, a name also stands for all below it, and loopback is never reached by a proxy.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

from epoch.config import SettingsError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS: Final = {"http": "80", "https": "443"}
_SCHEMES: Final = ("http", "https")
"""Of the proxies that aiohttp speaks to."""


def proxy_for(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The URL of the proxy that requests to `url` go through, or None.

    `SettingsError`: one is to be used that cannot be.
    """
    target = urlsplit(url)
    names = (f"{target.scheme.upper()}_PROXY", f"{target.scheme}_proxy")
    name, value = _first(names, environ)
    if not value or not _leaves(target, _first(("NO_PROXY", "no_proxy"), environ)[1]):
        return None
    proxy = value if "://" in value else f"http://{value}"
    scheme, host = _parts(proxy)
    if scheme not in _SCHEMES or not host:
        # Not quoted: it may hold a password.
        raise SettingsError(
            f"{name} names no proxy that can be used: give http://host:port or https://host:port, "
            "or except the store's host from it in NO_PROXY"
        )
    return proxy


def _first(names: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, str]:
    """The first of these variables that is not empty, and its value."""
    for name in names:
        if value := environ.get(name, ""):
            return name, value
    return names[0], ""


def _parts(proxy: str) -> tuple[str, str]:
    """Scheme and host of a proxy's URL; empty where it is none."""
    try:
        parts = urlsplit(proxy)
        parts.port  # noqa: B018 - raises where that is no number
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def _leaves(target: SplitResult, no_proxy: str) -> bool:
    """Whether a request may go through a proxy: not to this machine, nor to what `no_proxy` has."""
    host = target.hostname or ""
    port = str(target.port or _PORTS[target.scheme])
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    entries = [entry for part in no_proxy.split(",") if (entry := part.strip().lower())]
    if "*" in entries:
        return False
    if address is not None:
        return not any(_is_at(address, port, entry) for entry in entries)
    return not any(_is_below(host, port, entry) for entry in entries)


def _is_at(address: _Address, port: str, entry: str) -> bool:
    """Whether an address is in `a.b.c.d/n`, or is `a.b.c.d` or `a.b.c.d:port`; IPv6 likewise."""
    network, slash, bits = entry.partition("/")
    if slash:
        base = _address(network)
        if base is None or base.version != address.version or not bits.isdecimal():
            return False
        if int(bits) > base.max_prefixlen:
            return False
        return address in ipaddress.ip_network((base, int(bits)), strict=False)
    name, wanted = _split(entry)
    return _address(name) == address and wanted in ("", port)


def _is_below(host: str, port: str, entry: str) -> bool:
    """Whether a name is that of `entry`, or below it: only the latter for `.name` and `*.name`."""
    name, wanted = _split(entry)
    name = _ascii(name.removeprefix("*") if name.startswith("*.") else name)
    if not name or "/" in name or _address(name) is not None or wanted not in ("", port):
        return False
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith(f".{name}")


def _split(entry: str) -> tuple[str, str]:
    """Host and port of an entry; no port: empty. `[v6]:port`, but `v6` without brackets."""
    host, colon, port = entry.rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        return entry, ""
    return host.removeprefix("[").removesuffix("]"), port


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _ascii(name: str) -> str:
    """An international name as it stands in a URL."""
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name
