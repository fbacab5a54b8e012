"""What a proxy says about the client behind it, believed from those peers alone that are named.

Whoever else sends `X-Forwarded-*` is not listened to: anybody could write them.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from epoch.config import Network

MAX_HOPS: Final = 32
"""Addresses in X-Forwarded-For that are looked at: a client may send any number."""


class Proxies:
    """The networks whose word about a client is taken."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks

    def trusts(self, host: str) -> bool:
        """Whether a peer with this address is one of them."""
        address = _address(host)
        return address is not None and self._holds(address)

    def client(self, peer: str, headers: dict[str, str], *, secure: bool) -> tuple[str, bool]:
        """The client's address and whether it came over TLS, as a trusted peer says; `peer` and
        `secure` where it says nothing of use. Host becomes that which the client named.

        X-Forwarded-For is walked from the right, where the peer has put what it saw itself. The
        first address that is not of a trusted proxy is the client; what stands left of it, the
        client may have written.
        """
        for hop in reversed(headers.get("x-forwarded-for", "").rsplit(",", MAX_HOPS)):
            address = _address(hop.strip())
            if address is None:
                break
            peer = str(address)
            if not self._holds(address):
                break
        scheme = _first(headers, "x-forwarded-proto").lower()
        if scheme in ("http", "https"):
            secure = scheme == "https"
        host = _first(headers, "x-forwarded-host")
        if host:
            headers["host"] = host
        return peer, secure

    def _holds(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _first(headers: dict[str, str], name: str) -> str:
    """The first of its values: how the client itself came, where each of several proxies adds one.
    It may be the client's own, as Host is, and comes back to nobody else."""
    return headers.get(name, "").partition(",")[0].strip()


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, of which some proxies also tell the port; None where it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # As an IPv6 socket shows clients that came by IPv4.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
