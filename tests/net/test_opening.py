import pytest

from appliance.net.opening import parse_url


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "authority"),
    [
        ("http://el", "el", 80, "/", "el"),
        ("http://el:8551", "el", 8551, "/", "el:8551"),
        ("https://rpc.example/v2/key?x=1#y", "rpc.example", 443, "/v2/key?x=1", "rpc.example"),
        ("https://rpc.example:80?x", "rpc.example", 80, "/?x", "rpc.example:80"),
        ("ws://[::1]:1111/ws", "::1", 1111, "/ws", "[::1]:1111"),
        ("wss://[::1]", "::1", 443, "/", "[::1]"),
        ("HTTP://EL", "el", 80, "/", "el"),
    ],
)
def test_urls_are_taken_apart(url: str, host: str, port: int, target: str, authority: str) -> None:
    endpoint = parse_url(url, "http", "https", "ws", "wss")

    assert (endpoint.host, endpoint.port, endpoint.target) == (host, port, target)
    assert endpoint.authority == authority
    assert endpoint.secure is (endpoint.scheme in {"https", "wss"})
    assert endpoint.origin == f"{endpoint.scheme}://{authority}"
    assert endpoint.authorization is None
