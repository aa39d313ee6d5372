"""What is found in a flashblock, in captures of real ones and in anything else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.fanout import contents
from appliance.fanout.contents import NOTHING, Contents, Scan, extract, hex_bytes, scan_seconds

DATA = Path(__file__).parents[1] / "data" / "flashblocks"
BRIDGE = bytes.fromhex("4200000000000000000000000000000000000010")
TOPIC = bytes.fromhex("b0444523268717a02698be47d0803aa7468c00acbed2f8bd93a0459cde61dd89")


def captured(name: str) -> Contents:
    return extract((DATA / name).read_bytes())


def found_in(wanted: set[bytes], transactions: list[bytes]) -> set[bytes]:
    scan = Scan(wanted, Contents(frozenset(), frozenset(), tuple(transactions)))
    assert scan.run(lambda: 0.0, 1.0)
    return scan.hits


def test_balances_logs_and_transactions_of_the_proxys_own_examples() -> None:
    first = captured("schema/base-wsproxy-filter-1.json")
    assert first == Contents(frozenset({BRIDGE}), frozenset({TOPIC, bytes(32)}), ())
    second = captured("schema/base-wsproxy-filter-2.json")
    others = {"336f495c2d3d764f541426228178a2369c9b78db", "4200000000000000000000000000000000000007"}
    assert second.addresses == {BRIDGE, *map(bytes.fromhex, others)}
    assert [len(transaction) for transaction in second.transactions] == [264]


@pytest.mark.parametrize("name", ["op-rbuilder-legacy-tagged-index3.json", "op-rbuilder-pinned-index3.json"])
def test_receipts_tagged_outside_and_inside_say_the_same(name: str) -> None:
    found = captured(f"schema/{name}")
    assert found.addresses == {bytes(20), bytes(19) + b"\xaa"}
    assert found.topics == {bytes(31) + b"\xa1"}
    assert found.transactions == (b"\x02\xff",)


def test_a_flashblock_of_base_mainnet() -> None:
    body = (DATA / "base-mainnet-37646058-index10.json").read_bytes()
    found, message = extract(body), json.loads(body)
    assert len(found.transactions) == 11
    assert {"0x" + address.hex() for address in found.addresses} >= set(message["metadata"]["new_account_balances"])
    assert found.topics


def test_a_chain_without_metadata_has_its_transactions() -> None:
    for line in (DATA / "unichain-sepolia-35535698.jsonl").read_bytes().splitlines():
        found = extract(line)
        assert (found.addresses, found.topics) == (frozenset(), frozenset())
        assert len(found.transactions) == len(json.loads(line)["diff"]["transactions"])


def test_what_a_transaction_calls_is_found_in_it() -> None:
    lines = (DATA / "unichain-sepolia-35535698.jsonl").read_bytes().splitlines()
    l1_block, depositor = (
        bytes.fromhex("4200000000000000000000000000000000000015"),
        bytes.fromhex("deaddead" * 4 + "dead0001"),
    )
    transactions = list(extract(lines[0]).transactions)
    assert found_in({l1_block, depositor, os.urandom(20)}, transactions) == {l1_block, depositor}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["0x", "0xzz", "0x" + "11" * 20, "x", "0x" + "22" * 32]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "receipts",
                    "logs",
                    "address",
                    "topics",
                    "diff",
                    "transactions",
                    "new_account_balances",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@given(JSON)
def test_metadata_of_any_form_is_no_error(message: Any) -> None:
    found = extract(json.dumps(message).encode())
    assert all(len(address) == 20 for address in found.addresses)
    assert all(len(topic) == 32 for topic in found.topics)


@given(st.dictionaries(st.sampled_from(["metadata", "diff"]), JSON))
def test_nor_is_it_inside_a_message(message: Any) -> None:
    extract(json.dumps(message).encode())


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"metadata":{"receipts":' + b'{"a":' * 5000])
def test_what_is_no_json_has_nothing_in_it(text: bytes) -> None:
    assert extract(text) == NOTHING


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0x", b""),
        ("0xAb", b"\xab"),
        ("0Xab", b"\xab"),
        ("ab", None),
        ("0xa", None),
        ("0xa b0", None),
        (5, None),
        (None, None),
    ],
)
def test_hex_in_either_case_with_its_prefix(value: object, expected: bytes | None) -> None:
    assert hex_bytes(value) == expected


@given(st.data())
def test_one_by_one_and_all_together_find_the_same(data: st.DataObject) -> None:
    alphabet = st.sampled_from([0, 1])  # so that runs nearly match
    transactions = data.draw(st.lists(st.lists(alphabet, max_size=70).map(bytes), max_size=4))
    windows = [tx[begin : begin + 20] for tx in transactions for begin in range(len(tx) - 19)]
    wanted = {
        bytes(20),
        b"\1" * 20,
        *data.draw(st.lists(st.sampled_from(windows), max_size=3) if windows else st.just([])),
    }
    many = {*wanted, *(bytes([9, number]) + bytes(18) for number in range(120))}
    expected = {address for address in wanted if any(address in transaction for transaction in transactions)}
    assert found_in(wanted, transactions) == expected
    assert found_in(many, transactions) == expected


def test_an_address_across_the_border_of_two_pieces_is_found() -> None:
    many = {bytes([9]) + number.to_bytes(19, "big") for number in range(500)}
    address = b"\7" * 20
    for place in range(contents._PIECE_BYTES - 21, contents._PIECE_BYTES + 3):
        assert found_in({*many, address}, [bytes(place) + address + bytes(30)]) == {address}
    assert found_in({*many, address}, [address[:10], address[10:]]) == set()


def test_a_scan_goes_in_steps_of_bounded_work() -> None:
    many = {b"\1" + number.to_bytes(19, "big") for number in range(1000)}
    big = Contents(frozenset(), frozenset(), (bytes(10 * contents._PIECE_BYTES),))
    scan, steps = Scan(many, big), 1
    while not scan.run(lambda: 1.0, 0.0):
        steps += 1
    assert steps == 11
    assert scan_seconds(1000, big) > scan_seconds(2, big) > scan_seconds(2, NOTHING) == 0
    assert scan_seconds(0, big) == 0


def test_addresses_may_come_and_go_during_a_scan() -> None:
    wanted = dict.fromkeys(number.to_bytes(20, "big") for number in range(200))
    kept = (5).to_bytes(20, "big")
    pieces = (bytes(4000) + kept + bytes(4000),)
    scan = Scan(wanted.keys(), Contents(frozenset(), frozenset(), pieces))
    assert not scan.run(lambda: 1.0, 0.0)
    wanted[b"\7" * 20] = None
    del wanted[(7).to_bytes(20, "big")]
    while not scan.run(lambda: 1.0, 0.0):
        pass
    assert kept in scan.hits
