"""Nodes' URIs: what they say, which are refused and why, and that nothing secret is ever shown."""

import base64
import contextlib
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.node_uri import MAX_URI_CHARS, Claim, NodeUriError, parse_node_uri

MRENCLAVE = "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"


def sev(measurements: object, *, host: str = "node.example") -> str:
    packed = gzip.compress(json.dumps(measurements).encode(), mtime=0)
    return f"https://SEV_{base64.urlsafe_b64encode(packed).decode()}@{host}"


GOOD = {"1": {"expected": MRENCLAVE, "warnOnly": True}, "15": {"expected": "00" * 32, "warnOnly": False}}


@pytest.mark.parametrize(
    ("text", "url", "shown", "workers"),
    [
        ("http://foo", "http://foo", "http://foo", None),
        ("http://foo/", "http://foo", "http://foo", None),
        ("http://foo:8545?_workers=8", "http://foo:8545", "http://foo:8545", 8),
        ("http://foo:8545/?_workers=8", "http://foo:8545", "http://foo:8545", 8),
        ("https://[::1]:8545", "https://[::1]:8545", "https://[::1]:8545", None),
    ],
)
def test_plain_nodes(text: str, url: str, shown: str, workers: int | None) -> None:
    uri = parse_node_uri(text)
    assert (uri.url, uri.shown, uri.workers, uri.claim) == (url, shown, workers, None)


def test_a_query_of_the_node_goes_to_it_and_workers_do_not() -> None:
    uri = parse_node_uri("http://foo/rpc?key=a%20b&_workers=3&x=")
    assert (uri.url, uri.workers) == ("http://foo/rpc?key=a+b&x=", 3)


@pytest.mark.parametrize("text", ["http://foo/v2/SECRET", "http://foo/?key=SECRET", "http://user:SECRET@foo"])
def test_credentials_paths_and_queries_are_not_shown(text: str) -> None:
    uri = parse_node_uri(text)
    assert "SECRET" in uri.url
    assert "SECRET" not in uri.shown
    assert "SECRET" not in repr(uri)
    assert uri.shown.startswith("http://")


def test_two_nodes_of_one_host_are_told_apart() -> None:
    first, second = parse_node_uri("http://foo/v2/a"), parse_node_uri("http://foo/v2/b")
    assert first.shown != second.shown
    assert first.shown == parse_node_uri("http://foo/v2/a?_workers=9").shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "node URI: expected printable ASCII without spaces, at most 16384 characters"),
        ("http://a b", "node URI: expected printable ASCII without spaces, at most 16384 characters"),
        (
            "http://" + "a" * MAX_URI_CHARS,
            "node URI: expected printable ASCII without spaces, at most 16384 characters",
        ),
        ("foo:8545", "node URI: expected http://host:port or https://host:port"),
        ("ws://foo", "node URI: expected http://host:port or https://host:port"),
        ("http://", "node URI: expected a host and, if any, a port from 1 to 65535"),
        ("http://localhost:8545X", "node URI: expected a host and, if any, a port from 1 to 65535"),
        ("http://foo:0", "node URI: expected a host and, if any, a port from 1 to 65535"),
        ("http://foo?_workers=0", "node URI: _workers: expected a whole number from 1 to 4096"),
        ("http://foo?_workers=x", "node URI: _workers: expected a whole number from 1 to 4096"),
        ("http://foo?_workers=-1", "node URI: _workers: expected a whole number from 1 to 4096"),
        ("http://foo?_workers=99999999999", "node URI: _workers: expected a whole number from 1 to 4096"),
        (f"http://SGX_{MRENCLAVE}@foo", "node URI: SGX_: expected https://: it is attested over TLS"),
        ("https://SGX_abc@foo", "node URI: SGX_: expected the MRENCLAVE as 64 hex digits"),
        ("https://SGX_@foo", "node URI: SGX_: expected the MRENCLAVE as 64 hex digits"),
        ("https://SEV_!!@foo", "node URI: SEV_: expected measurements in base64url"),
        ("https://SEV_AAAA@foo", "node URI: SEV_: expected gzip inside the base64url"),
        (sev([]), "node URI: SEV_: expected a JSON object with at least one measurement"),
        (sev({}), "node URI: SEV_: expected a JSON object with at least one measurement"),
        (sev({"x": {}}), "node URI: SEV_: expected registers 0 to 99, each with an object"),
        (sev({"1": 5}), "node URI: SEV_: expected registers 0 to 99, each with an object"),
        (
            sev({"1": {"expected": "ab"}}),
            "node URI: SEV_: register 1: expected 64 hex digits in `expected`, a boolean in `warnOnly`",
        ),
        (
            sev({"1": {"expected": MRENCLAVE, "warnOnly": 1}}),
            "node URI: SEV_: register 1: expected 64 hex digits in `expected`, a boolean in `warnOnly`",
        ),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(NodeUriError) as caught:
        parse_node_uri(text)
    assert str(caught.value) == message


def test_an_sgx_node() -> None:
    uri = parse_node_uri(f"https://SGX_{MRENCLAVE}@foo:8545?_workers=2")
    assert uri.claim is not None
    assert (uri.claim.scheme, uri.claim.expected, uri.workers) == ("SGX", bytes.fromhex(MRENCLAVE), 2)
    assert uri.shown.startswith("https://SGX_…@foo:8545/…")
    assert MRENCLAVE not in uri.shown


def test_a_sev_node_with_the_measurements_of_the_originals_readme_form() -> None:
    uri = parse_node_uri(sev(GOOD))
    assert uri.claim is not None
    assert (uri.claim.scheme, json.loads(uri.claim.expected)) == ("SEV", GOOD)
    assert uri.shown.startswith("https://SEV_…@node.example/…")


def test_padding_may_be_left_out() -> None:
    assert parse_node_uri(sev(GOOD).replace("=", "")).claim is not None


def test_a_gzip_bomb_and_a_cut_gzip_are_refused_without_unpacking_them() -> None:
    bomb = base64.urlsafe_b64encode(gzip.compress(b"0" * 5_000_000)).decode()
    with pytest.raises(NodeUriError, match="whole gzip of at most 65536 bytes"):
        parse_node_uri(f"https://SEV_{bomb}@foo")
    cut = base64.urlsafe_b64encode(gzip.compress(json.dumps(GOOD).encode())[:-6]).decode()
    with pytest.raises(NodeUriError, match="whole gzip"):
        parse_node_uri(f"https://SEV_{cut}@foo")


def test_what_is_no_json_inside_the_gzip() -> None:
    packed = base64.urlsafe_b64encode(gzip.compress(b"{")).decode()
    with pytest.raises(NodeUriError, match="JSON object of measurements inside the gzip"):
        parse_node_uri(f"https://SEV_{packed}@foo")


@given(
    st.text(max_size=80)
    | st.binary(max_size=60).map(lambda data: "https://SEV_" + base64.b64encode(data).decode() + "@h")
)
def test_any_text_is_a_node_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(NodeUriError):
        uri = parse_node_uri(text)
        assert parse_node_uri(uri.url).url == uri.url
        assert uri.claim is None or uri.url.startswith("https://")


@pytest.mark.parametrize("name", ["SGX", "sgx", "Sgx"])
def test_the_name_of_an_attestation_is_found_whatever_its_case(name: str) -> None:
    uri = parse_node_uri(f"https://{name}_{'Ab' * 32}@foo")
    assert uri.claim == Claim("SGX", bytes.fromhex("ab" * 32))
    assert uri == parse_node_uri(f"https://SGX_{'Ab' * 32}@foo")
    assert uri.shown.startswith("https://SGX_…@foo/…")
    lower = parse_node_uri(sev(GOOD).replace("SEV_", "sev_"))
    assert (lower, lower.url) == (parse_node_uri(sev(GOOD)), sev(GOOD))


@pytest.mark.parametrize("uri", ["https://TDX_abc@foo", "https://tdx_abc@foo", "http://Tdx_@foo:1"])
def test_an_attestation_that_is_not_known_is_refused(uri: str) -> None:
    with pytest.raises(NodeUriError, match="expected SEV_ or SGX_, what else is attested is not known"):
        parse_node_uri(uri)


def test_a_users_name_that_only_looks_like_one_is_a_users_name() -> None:
    for user in ("sevx_1", "sev", "my_sev_1"):
        assert parse_node_uri(f"https://{user}@foo").claim is None
