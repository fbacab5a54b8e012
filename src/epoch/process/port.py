"""The port of several processes, held by none of them."""

from __future__ import annotations

import errno
import socket
from typing import Final

_TRIES: Final = 20

_Address = tuple[socket.AddressFamily, tuple[str, int]]


def reserve(host: str, port: int) -> tuple[list[socket.socket], int]:
    """Bind, without listening, every address of `host` (empty: all interfaces), so that the port
    (0: a free one, which is returned) stays ours while workers come and go.

    `OSError` where the port is taken, also by processes that would share it.
    """
    if port:
        for address in _addresses(host, port):
            # With SO_REUSEPORT, the port of another server would be shared in silence.
            with _bound(address, share=False):
                pass
        return [_bound(address, share=True) for address in _addresses(host, port)], port
    for tried in range(1, _TRIES + 1):
        held: list[socket.socket] = []
        try:
            for address in _addresses(host, 0):
                held.append(_bound(address, share=True, port=port))
                port = held[0].getsockname()[1]
        except OSError as error:
            for one in held:
                one.close()
            port = 0
            if error.errno != errno.EADDRINUSE or tried == _TRIES:
                raise
        else:
            return held, port
    raise AssertionError


def _addresses(host: str, port: int) -> list[_Address]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address[:2]) for family, _, _, _, address in found))  # type: ignore[misc]


def _bound(address: _Address, *, share: bool, port: int = 0) -> socket.socket:
    family, (host, wanted) = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port or wanted))
    except BaseException:
        sock.close()
        raise
    return sock
