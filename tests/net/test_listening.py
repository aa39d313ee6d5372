import socket

import pytest

from appliance.domain.errors import ConfigError
from appliance.net.listening import open_listener, split_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:8081", ("127.0.0.1", 8081)),
        ("localhost:0", ("localhost", 0)),
        (":80", ("0.0.0.0", 80)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses_are_taken_apart(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["", "host", "host:", "host:http", "host:65536", "host:-1", "::1:80", "h:\u0661"])
def test_what_is_no_address_is_told_in_one_line(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_address(address)

    assert str(caught.value).startswith(f'address "{address}": ')
    assert "\n" not in str(caught.value)


def test_a_listener_listens_and_never_blocks() -> None:
    with open_listener("127.0.0.1:0") as listener:
        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            accepted.close()


def test_a_name_is_bound_to_its_ipv4_address() -> None:
    with open_listener("localhost:0") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_one_clear_line() -> None:
    with open_listener("127.0.0.1:0") as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"

        with pytest.raises(ConfigError) as caught:
            open_listener(address)

    assert str(caught.value) == f"cannot listen on {address}: Address already in use"


def test_an_address_of_another_host_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192.0.2.1:0: Cannot assign requested address"):
        open_listener("192.0.2.1:0")


def test_a_name_that_does_not_exist_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on no such host:1: "):
        open_listener("no such host:1")
