"""The opening handshake, checked with the example of RFC 6455 and with what clients get wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.net.websocket_handshake import NotAWebsocket, accept, accept_key

GOOD = {
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def refused(**changes: str | None) -> NotAWebsocket:
    headers = {name.replace("_", "-"): value for name, value in changes.items()}
    answer = accept({name: value for name, value in {**GOOD, **headers}.items() if value is not None})
    assert isinstance(answer, NotAWebsocket)
    return answer


def test_the_example_of_the_rfc() -> None:
    assert accept(GOOD) == (("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),)


def test_tokens_are_compared_without_case_and_in_lists() -> None:
    assert not isinstance(accept({**GOOD, "connection": "keep-alive, UPGRADE", "upgrade": "WebSocket"}), NotAWebsocket)


def test_extensions_and_subprotocols_are_declined_silently() -> None:
    offered = {"sec-websocket-extensions": "permessage-deflate", "sec-websocket-protocol": "chat"}
    assert accept({**GOOD, **offered}) == accept(GOOD)


def test_without_upgrade_it_is_another_protocol() -> None:
    assert refused(upgrade=None).status == 426
    assert refused(upgrade="h2c").status == 426


def test_an_old_version_is_told_ours() -> None:
    assert refused(sec_websocket_version="8") == NotAWebsocket(426, "Sec-WebSocket-Version must be 13")
    assert refused(sec_websocket_version=None).status == 426


def test_connection_must_name_the_upgrade() -> None:
    assert refused(connection="keep-alive").status == 400


@pytest.mark.parametrize("key", [None, "", "short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ==x", "ü" * 24])
def test_the_key_is_sixteen_bytes_in_base64(key: str | None) -> None:
    assert refused(sec_websocket_key=key) == NotAWebsocket(400, "Sec-WebSocket-Key must be 16 bytes in base64")


def test_the_accept_key_differs_by_key() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") != accept_key("eGhlIHNhbXBsZSBub25jZQ==")


@given(st.dictionaries(st.sampled_from(list(GOOD)), st.text(max_size=40)))
def test_any_headers_are_accepted_or_refused(headers: dict[str, str]) -> None:
    answer = accept({**GOOD, **headers})
    assert isinstance(answer, tuple) or answer.status in (400, 426)
