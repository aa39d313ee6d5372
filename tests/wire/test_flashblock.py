"""The flashblock decoder: real messages in all their variants, and bytes that are none."""

import json
import pathlib
from typing import Any

import brotli
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.domain.errors import DecodeError
from appliance.domain.flashblocks import Encoding, EndOfPayload, Flashblock
from appliance.domain.payloads import PayloadId
from appliance.wire.flashblock import MAX_MESSAGE_BYTES, MessageTooLarge, decode, encoding_of, plain_text
from tests.support.blocks import compressed, unichain_messages

FLASHBLOCKS = pathlib.Path(__file__).parents[1] / "data" / "flashblocks"
SCHEMA_VARIANTS = sorted((FLASHBLOCKS / "schema").glob("*.json"))


def decoded(message: bytes, encoding: Encoding = Encoding.TEXT) -> Flashblock:
    found = decode(message, encoding)
    assert isinstance(found, Flashblock)
    return found


def first_message() -> dict[str, Any]:
    message: dict[str, Any] = json.loads(unichain_messages()[0])
    return message


def changed(path: str, value: object) -> bytes:
    """The first real message with the value at ``path`` replaced, or removed for Ellipsis."""
    message = first_message()
    *parents, last = path.split(".")
    place = message
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(message).encode()


# Real messages


@pytest.mark.parametrize("index", range(5))
def test_every_field_of_the_real_block_is_read_as_it_came(index: int) -> None:
    body = unichain_messages()[index]
    message = json.loads(body)
    flashblock = decoded(body)
    assert (flashblock.payload_id, flashblock.index) == ("0x03c446f063e3735a", index)
    assert flashblock.block_number == 35535698
    assert flashblock.body == body
    assert flashblock.diff is not None
    assert flashblock.diff.block_hash == message["diff"]["block_hash"]
    assert flashblock.diff.logs_bloom == message["diff"]["logs_bloom"]
    assert [json.loads(bytes(raw)) for raw in flashblock.diff.transactions] == message["diff"]["transactions"]
    assert (flashblock.base is not None) is (index == 0)


def test_base_is_read_from_index_0() -> None:
    base = decoded(unichain_messages()[0]).base
    assert base is not None
    assert base.parent_hash == first_message()["base"]["parent_hash"]
    assert base.extra_data == "0x00000000320000000c"


@pytest.mark.parametrize("path", SCHEMA_VARIANTS, ids=lambda path: path.stem)
def test_schema_variants_pass_unharmed(path: pathlib.Path) -> None:
    body = path.read_bytes()
    message = json.loads(body)
    flashblock = decoded(body)
    assert flashblock.body == body
    assert flashblock.index == message["index"]
    assert flashblock.block_number == message["metadata"]["block_number"]
    assert (flashblock.base is not None) is (message.get("base") is not None)
    assert (flashblock.diff is not None) is ("state_root" in message.get("diff", {}))


def test_a_whole_base_sepolia_block_has_indices_0_to_10() -> None:
    lines = (FLASHBLOCKS / "base-sepolia-33439826.jsonl").read_bytes().splitlines()
    flashblocks = [decoded(line) for line in lines]
    assert [flashblock.index for flashblock in flashblocks] == list(range(11))
    assert {flashblock.block_number for flashblock in flashblocks} == {33439826}
    assert flashblocks[3].diff is not None
    assert flashblocks[3].diff.transactions == []


def test_a_mainnet_message_with_receipts_passes() -> None:
    flashblock = decoded((FLASHBLOCKS / "base-mainnet-37646058-index10.json").read_bytes())
    assert (flashblock.index, flashblock.block_number) == (10, 37646058)
    assert flashblock.diff is not None
    assert len(flashblock.diff.transactions) == 11


def test_brotli_in_a_binary_frame_says_the_same_as_text() -> None:
    text = unichain_messages()[0]
    body = compressed(text)
    flashblock = decoded(body, encoding_of(body, is_binary=True))
    assert (flashblock.body, flashblock.encoding) == (body, Encoding.BROTLI)
    assert flashblock.base == decoded(text).base
    assert plain_text(body, Encoding.BROTLI) == text
    assert plain_text(text, Encoding.TEXT) is text


def test_json_in_a_binary_frame_is_text() -> None:
    assert encoding_of(b'{"index":0}', is_binary=True) is Encoding.TEXT
    assert encoding_of(b'{"index":0}', is_binary=False) is Encoding.TEXT
    assert encoding_of(compressed(b'{"index":0}'), is_binary=True) is Encoding.BROTLI


@given(st.binary(max_size=400), st.integers(0, 11), st.integers(10, 24))
def test_no_brotli_stream_begins_like_json(text: bytes, quality: int, window_bits: int) -> None:
    stream = brotli.compress(text, quality=quality, lgwin=window_bits)
    assert encoding_of(stream, is_binary=True) is Encoding.BROTLI


# X Layer


def test_x_layers_end_message_has_only_a_payload_id() -> None:
    assert decode(b'{"payload_id":"0x03C446F063E3735A"}', Encoding.TEXT) == EndOfPayload(
        PayloadId("0x03c446f063e3735a")
    )


def test_unknown_fields_are_tolerated() -> None:
    message = first_message() | {"target_index": 10, "future": {"deep": [1, {"x": None}]}}
    message["diff"]["new_root"] = "0x00"
    message["base"]["slot_number"] = 7
    assert decoded(json.dumps(message).encode()).index == 0


def test_an_end_message_may_carry_more_that_is_no_flashblock() -> None:
    end = decode(b'{"payload_id":"0x0000000000000001","target_index":4,"metadata":{}}', Encoding.TEXT)
    assert isinstance(end, EndOfPayload)


# Variants of single fields


@pytest.mark.parametrize(
    ("metadata", "number"),
    [
        ({"block_number": 7}, 7),
        ({"block_number": "0x7"}, 7),
        ({"block_number": None}, 35535698),
        ({}, 35535698),
        (None, 35535698),
        ("opaque", 35535698),
        ([1, 2], 35535698),
    ],
)
def test_block_number_comes_from_metadata_or_else_from_base(metadata: object, number: int) -> None:
    assert decoded(changed("metadata", metadata)).block_number == number


def test_without_metadata_and_base_there_is_no_block_number() -> None:
    message = json.loads(unichain_messages()[1])
    del message["metadata"]
    assert decoded(json.dumps(message).encode()).block_number is None


@pytest.mark.parametrize(
    "missing", ["state_root", "receipts_root", "logs_bloom", "gas_used", "block_hash", "transactions"]
)
def test_a_diff_that_is_not_whole_is_no_diff(missing: str) -> None:
    assert decoded(changed(f"diff.{missing}", ...)).diff is None


def test_what_only_some_chains_send_is_optional() -> None:
    for name in ("withdrawals", "withdrawals_root"):
        flashblock = decoded(changed(f"diff.{name}", ...))
        assert flashblock.diff is not None
    blobs = decoded(changed("diff.blob_gas_used", "0x2c")).diff
    assert blobs is not None
    assert blobs.blob_gas_used == "0x2c"


# Refused


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("payload_id", ..., "payload_id"),
        ("payload_id", 7, "payload_id"),
        ("payload_id", "0x03c446f063e3735", "payload_id: expected hex as"),
        ("payload_id", "0x03c446f063e3735aff", "found '0x03c446f063e3735aff'"),
        ("index", ..., "flashblock index: missing"),
        ("index", -1, "index: expected 0 to 65535, found -1"),
        ("index", 65536, "found 65536"),
        ("index", "0", "$.index"),
        ("index", True, "$.index"),
        ("index", 1.5, "$.index"),
        ("base", "0x", "$.base"),
        ("base.parent_hash", ..., "parent_hash"),
        ("base.parent_hash", "0x00", "base.parent_hash: expected hex as"),
        ("base.timestamp", "yesterday", "base.timestamp"),
        ("base.timestamp", "0x" + "1" * 17, "base.timestamp"),
        ("base.extra_data", "0x0", "base.extra_data"),
        ("diff", [], "$.diff"),
        ("diff.block_hash", 5, "$.diff.block_hash"),
        ("diff.block_hash", "0xzz", "diff.block_hash"),
        ("diff.gas_used", "0x", "diff.gas_used"),
        ("diff.gas_used", "0x1\n", "diff.gas_used"),
        ("diff.transactions", "0x02", "$.diff.transactions"),
        ("diff.transactions", ["0x02", {"hash": 1}], "diff.transactions[1]: expected a hex string"),
        ("metadata.block_number", -4, "block_number: expected 0 to"),
        ("metadata.block_number", 2**63, "block_number: expected 0 to"),
        ("metadata.block_number", "seven", "block_number: expected hex"),
        ("metadata.block_number", [1], "metadata"),
    ],
)
def test_an_error_names_the_field_and_what_was_found(path: str, value: object, expected: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(changed(path, value), Encoding.TEXT)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b'"x"', b"{", b"{}", b"\xff\xfe", b"{}{}"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(body, Encoding.TEXT)


def test_deep_nesting_is_refused() -> None:
    body = b'{"payload_id":"0x03c446f063e3735a","x":' + b"[" * 200_000
    with pytest.raises(DecodeError):
        decode(body, Encoding.TEXT)


def test_text_must_be_utf8_because_text_frames_must() -> None:
    body = unichain_messages()[0].replace(b'"receipts":{}', b'"note":"\xff"')
    for message, encoding in ((body, Encoding.TEXT), (compressed(body), Encoding.BROTLI)):
        with pytest.raises(DecodeError, match="not UTF-8 at byte"):
            decode(message, encoding)
    umlaut = unichain_messages()[0].replace(b'"receipts":{}', '"note":"ü"'.encode())
    assert decoded(compressed(umlaut), Encoding.BROTLI).index == 0


def test_a_message_over_the_bound_is_refused_unread() -> None:
    with pytest.raises(DecodeError, match=f"at most {MAX_MESSAGE_BYTES}"):
        decode(b" " * (MAX_MESSAGE_BYTES + 1), Encoding.TEXT)


def test_a_brotli_bomb_is_refused_at_the_bound() -> None:
    bomb = brotli.compress(b" " * (4 * MAX_MESSAGE_BYTES))
    assert len(bomb) < 1000
    with pytest.raises(DecodeError, match="when decompressed"):
        decode(bomb, Encoding.BROTLI)


def test_more_transactions_than_could_be_real_are_refused_before_they_are_looked_at() -> None:
    with pytest.raises(DecodeError, match=r"diff\.transactions: more than 10485"):
        decode(changed("diff.transactions", ["0x" + "00" * 20] * 10_486), Encoding.TEXT)
    assert decoded(changed("diff.transactions", ["0x" + "00" * 20] * 10_485)).diff is not None


def test_a_message_of_nothing_but_tiny_values_is_refused_before_it_is_decoded() -> None:
    crowded = unichain_messages()[0][:-1] + b',"x":[' + b'"",' * 600_000 + b"0]}"
    assert len(crowded) < MAX_MESSAGE_BYTES
    with pytest.raises(DecodeError, match="too many values"):
        decode(crowded, Encoding.TEXT)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_lower_bound_is_kept_and_is_told_apart_from_garbage(size: int) -> None:
    text = unichain_messages()[0][:size].ljust(size)
    for body, encoding in ((text, Encoding.TEXT), (compressed(text), Encoding.BROTLI)):
        assert plain_text(body, encoding, max_bytes=size) == text
        with pytest.raises(MessageTooLarge):
            plain_text(body, encoding, max_bytes=size - 1)


def test_a_message_of_the_largest_size_is_taken() -> None:
    text = unichain_messages()[0].ljust(MAX_MESSAGE_BYTES)
    assert decoded(text).index == 0
    assert len(plain_text(compressed(text), Encoding.BROTLI)) == MAX_MESSAGE_BYTES


@pytest.mark.parametrize("cut", [1, 2, 10, 100, 500])
def test_a_brotli_stream_that_is_cut_or_continued_is_refused(cut: int) -> None:
    body = compressed(unichain_messages()[0])
    for bad in (body[:-cut], body + b"x" * cut, b"", body[cut:]):
        with pytest.raises(DecodeError):
            decode(bad, Encoding.BROTLI)


# Fuzz: whatever comes, the decoder answers or raises DecodeError.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["payload_id", "index", "base", "diff", "metadata"])


def answers(message: bytes, encoding: Encoding) -> None:
    try:
        found = decode(message, encoding)
    except DecodeError:
        return
    assert isinstance(found, EndOfPayload) or found.body == message


@given(st.binary(max_size=300), st.sampled_from(Encoding))
@example(b"[" * 100_000, Encoding.TEXT)
@example(b'{"index":' + b"9" * 10_000 + b"}", Encoding.TEXT)
@example(b'{"payload_id":"\\ud800"}', Encoding.TEXT)
@example(b'{"payload_id":"0x0000000000000001","index":1e400}', Encoding.TEXT)
def test_garbage_never_raises_anything_but_a_decode_error(message: bytes, encoding: Encoding) -> None:
    answers(message, encoding)


@given(st.dictionaries(FIELDS | st.text(max_size=5), json_values))
def test_any_json_object_never_raises_anything_but_a_decode_error(message: dict[str, object]) -> None:
    body = json.dumps(message).encode()
    answers(body, Encoding.TEXT)
    answers(compressed(body), Encoding.BROTLI)


@given(st.integers(0, 4), FIELDS, json_values, st.data())
def test_a_real_message_with_one_value_replaced_never_raises_anything_but_a_decode_error(
    index: int, field: str, value: object, data: st.DataObject
) -> None:
    message = json.loads(unichain_messages()[index])
    place = message
    while isinstance(place.get(field), dict) and place[field] and data.draw(st.booleans()):
        place = place[field]
        field = data.draw(st.sampled_from(sorted(place)))
    place[field] = value
    answers(json.dumps(message).encode(), Encoding.TEXT)


@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=5))
def test_a_real_message_with_flipped_bytes_never_raises_anything_but_a_decode_error(
    index: int, flips: list[tuple[int, int]]
) -> None:
    for encoding, body in (
        (Encoding.TEXT, unichain_messages()[index]),
        (Encoding.BROTLI, compressed(unichain_messages()[index])),
    ):
        message = bytearray(body)
        for place, byte in flips:
            message[place % len(message)] = byte
        answers(bytes(message), encoding)
