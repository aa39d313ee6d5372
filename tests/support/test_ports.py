import socket

import pytest

from appliance.net.listening import open_listener
from tests.support.ports import held_address, lasting_port


def test_a_server_has_the_port_again_and_again_and_between_whiles_it_refuses() -> None:
    port = lasting_port()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with open_listener(f"127.0.0.1:{port}") as listener, socket.create_connection(("127.0.0.1", port)) as client:
            listener.setblocking(True)
            listener.accept()[0].close()
            assert client.recv(1) == b""


def test_nobody_else_finds_it_free() -> None:
    """Not even a server's child that is about to bind is beaten to it."""
    port = lasting_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    assert port not in {lasting_port() for _ in range(50)}


def test_an_address_that_is_held_refuses_while_nobody_serves_on_it() -> None:
    with held_address() as address:
        host, port = address.split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((host, int(port)))
        with open_listener(address), socket.create_connection((host, int(port))):
            pass
