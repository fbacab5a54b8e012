"""Ports that are held without listening."""

import errno
import socket

import pytest

from epoch.process.port import reserve


def _listen(port: int, *options: int) -> socket.socket:
    sock = socket.socket()
    try:
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


def test_a_free_port_is_taken_on_every_address_and_can_be_shared() -> None:
    held, port = reserve("", 0)
    try:
        assert {sock.getsockname()[1] for sock in held} == {port}
        assert len({sock.family for sock in held}) == len(held)
        with pytest.raises(OSError, match="in use"):
            _listen(port)
        with _listen(port, socket.SO_REUSEPORT), socket.create_connection(("127.0.0.1", port)):
            pass
        # Nobody listens, and what only holds the port takes no connection.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    finally:
        for sock in held:
            sock.close()


def test_a_port_that_was_just_left_can_be_taken() -> None:
    with _listen(0, socket.SO_REUSEADDR) as listening:
        port = listening.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = listening.accept()
        accepted.close()
        client.close()
    held, found = reserve("127.0.0.1", port)
    assert found == port
    held[0].close()


@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_port_where_others_listen_is_in_use(option: int) -> None:
    with _listen(0, option) as listening:
        with pytest.raises(OSError, match="in use") as caught:
            reserve("127.0.0.1", listening.getsockname()[1])
        assert caught.value.errno == errno.EADDRINUSE
