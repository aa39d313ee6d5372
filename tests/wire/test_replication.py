"""What hosts say to each other: there and back, and nothing but DecodeError for anything else."""

import contextlib
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.wire.replication import (
    MAX_ITEMS,
    MAX_MESSAGE_BYTES,
    MAX_TEXT,
    Ack,
    AnyMessage,
    Closed,
    Committed,
    Entries,
    Hello,
    Passed,
    Pruned,
    Refusal,
    Settled,
    Welcome,
    WireEntry,
    WirePlace,
    decode,
    encode,
    proves,
    welcome_proof,
)

ID = PayloadId("0x0000000000000001")
PREFIX = b"\x05" * 32
HELLO = Hello(1, "a", "log", b"\x01" * 16, False, True, "", 0, ["a", "b"], 2)
WELCOME = Welcome(1, "b", "log", b"\x02" * 32, 7, False, False, True, ["a", "b"], 2)
ENTRY = WireEntry(3, ID, 1, 9, Encoding.BROTLI, "alpha", 0.25, b"body", PREFIX, True)
MESSAGES: list[AnyMessage] = [
    HELLO,
    WELCOME,
    Refusal("no"),
    Entries([ENTRY, msgspec.structs.replace(ENTRY, position=4, body=None)]),
    Committed([WirePlace(ID, 1, PREFIX)]),
    Settled(ID, PayloadState.LANDED, "0x1"),
    Closed(ID, 2, {"a": "log"}),
    Closed(ID, 3, None),
    Pruned(5),
    Passed(6),
    Ack(9, [3, 4], [5]),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_as_it_went(message: AnyMessage) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Entries([]), "entries: none"),
        (Entries([ENTRY, ENTRY]), "position: 3 after 3, expected a greater one"),
        (Entries([msgspec.structs.replace(ENTRY, position=-1)]), "position: -1, expected"),
        (Entries([msgspec.structs.replace(ENTRY, index=2**63)]), "index: 9223372036854775808, expected"),
        (Entries([msgspec.structs.replace(ENTRY, block_number=-5)]), "block_number: -5, expected"),
        (Entries([msgspec.structs.replace(ENTRY, prefix=b"short")]), "prefix: 5 bytes, expected 32"),
        (Entries([msgspec.structs.replace(ENTRY, age_s=math.nan)]), "age_s: nan, expected a number of seconds"),
        (Committed([WirePlace(ID, 0, b"")]), "prefix: 0 bytes, expected 32"),
        (msgspec.structs.replace(HELLO, nonce=b"1"), "nonce: 1 bytes, expected 16"),
        (msgspec.structs.replace(HELLO, cursor=-1), "cursor: -1, expected"),
        (msgspec.structs.replace(WELCOME, appended=-1), "appended: -1, expected"),
        (Ack(-1, [], []), "through: -1, expected"),
        (Pruned(-1), "through: -1, expected"),
        (Closed(ID, -1, {}), "at: -1, expected"),
        (Entries([ENTRY] * (MAX_ITEMS + 1)), "entries: 1025, at most 1024 are taken"),
        (Committed([WirePlace(ID, 1, PREFIX)] * (MAX_ITEMS + 1)), "places: 1025, at most"),
        (Ack(9, [1] * (MAX_ITEMS + 1), []), "refused: 1025, at most"),
        (Ack(9, [], [1] * (MAX_ITEMS + 1)), "ended: 1025, at most"),
        (msgspec.structs.replace(HELLO, voters=["a"] * (MAX_ITEMS + 1)), "voters: 1025, at most"),
        (msgspec.structs.replace(WELCOME, voters=["a" * (MAX_TEXT + 1)]), "voters: 1025 characters, at most 1024"),
        (msgspec.structs.replace(HELLO, host_id="a" * (MAX_TEXT + 1)), "host_id: 1025 characters, at most 1024"),
        (msgspec.structs.replace(HELLO, log_id="a" * (MAX_TEXT + 1)), "log_id: 1025 characters"),
        (Refusal("a" * (MAX_TEXT + 1)), "reason: 1025 characters"),
        (Settled(ID, PayloadState.LANDED, "a" * (MAX_TEXT + 1)), "block_hash: 1025 characters"),
        (Closed(PayloadId("a" * (MAX_TEXT + 1)), 0, {}), "payload_id: 1025 characters"),
        (Closed(ID, 0, {"a": "b" * (MAX_TEXT + 1)}), "logs: 1025 characters"),
        (Committed([WirePlace(PayloadId("a" * (MAX_TEXT + 1)), 1, PREFIX)]), "payload_id: 1025 characters"),
        (Entries([msgspec.structs.replace(ENTRY, builder="a" * (MAX_TEXT + 1))]), "builder: 1025 characters"),
        (Entries([msgspec.structs.replace(ENTRY, age_s=1e12)]), "age_s: 1000000000000.0, expected"),
        (Entries([msgspec.structs.replace(ENTRY, age_s=-1.0)]), "age_s: -1.0, expected"),
    ],
)
def test_values_out_of_bounds_are_named(message: AnyMessage, text: str) -> None:
    with pytest.raises(DecodeError, match=text.replace("(", r"\(")):
        decode(encode(message))


def test_a_field_of_another_type_is_named() -> None:
    with pytest.raises(DecodeError, match=r"not a replication message: .*\$\[1\]"):
        decode(msgspec.msgpack.encode(["pruned", "five"]))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DecodeError, match="not a replication message: Invalid value 'gossip'"):
        decode(msgspec.msgpack.encode(["gossip", 1]))


def test_elements_of_a_later_form_are_passed_over() -> None:
    assert decode(msgspec.msgpack.encode(["pruned", 5, "later"])) == Pruned(5)


def test_a_message_that_is_too_large_is_not_even_looked_at() -> None:
    with pytest.raises(DecodeError, match=f"at most {MAX_MESSAGE_BYTES} are taken"):
        decode(bytes(MAX_MESSAGE_BYTES + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    try:
        message = decode(data)
    except DecodeError:
        return
    assert decode(encode(message)) == message


@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_message_is_another_one_or_a_decode_error(message: AnyMessage, data: st.DataObject) -> None:
    encoded = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    for candidate in (bytes(encoded), bytes(encoded[:cut])):
        with contextlib.suppress(DecodeError):
            decode(candidate)


def test_only_who_knows_the_secret_proves_it_and_only_for_this_link() -> None:
    secret, nonce = b"s" * 32, b"n" * 16
    proof = welcome_proof(secret, nonce, follower="a", source="b", log_id="log")
    welcome = msgspec.structs.replace(WELCOME, proof=proof)
    assert proves(welcome, secret, nonce, follower="a")
    assert not proves(welcome, b"t" * 32, nonce, follower="a")
    assert not proves(welcome, secret, b"m" * 16, follower="a")
    assert not proves(welcome, secret, nonce, follower="c")
    assert not proves(msgspec.structs.replace(welcome, log_id="other"), secret, nonce, follower="a")
    assert not proves(msgspec.structs.replace(welcome, host_id="c"), secret, nonce, follower="a")
