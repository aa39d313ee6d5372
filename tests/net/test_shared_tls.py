"""The contexts that all clients share."""

import ssl

from appliance.domain.node_uri import parse_node_uri
from appliance.lb.node import Node, NodeSettings
from appliance.net.http_client import HttpClient
from appliance.net.tls import client_context, unverified_context


def test_certificates_are_verified_and_the_context_is_made_once() -> None:
    context = client_context()
    assert context is client_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (unverified_context().verify_mode, unverified_context().check_hostname) == (ssl.CERT_NONE, False)


def test_a_second_https_peer_loads_no_authorities() -> None:
    before = client_context.cache_info()
    for number in range(3):
        HttpClient(f"https://host{number}")
        Node(parse_node_uri(f"https://host{number}"), "added", NodeSettings(), 0.0)
    after = client_context.cache_info()
    assert after.hits >= before.hits + 5
    assert after.misses <= max(before.misses, 1)
