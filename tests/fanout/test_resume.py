"""What a subscriber writes into the query, and where that is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.payloads import PayloadId
from appliance.domain.positions import AfterBlock, AfterPayload, CurrentPayload, Resume
from appliance.fanout.frames import Variant
from appliance.fanout.resume import (
    MAX_BLOCK_NUMBER,
    MAX_INDEX,
    BadRequest,
    Query,
    SubscribeRequest,
    parse_query,
    parse_target,
)
from appliance.net.http import Headers, HttpRequest

ID = "0x03997352d799c31a"


def resume_of(query: dict[str, str]) -> Resume:
    parsed = parse_query(query)
    assert isinstance(parsed, SubscribeRequest)
    return parsed.resume


def reason_of(query: dict[str, str]) -> str:
    parsed = parse_query(query)
    assert isinstance(parsed, BadRequest)
    return parsed.reason


@pytest.mark.parametrize(
    ("query", "resume"),
    [
        ({}, CurrentPayload()),
        ({"block_number": "35535698", "flashblock_index": "1"}, AfterBlock(35535698, 1)),
        ({"block_number": "35535698"}, AfterBlock(35535698, -1)),
        ({"block_number": "0", "flashblock_index": "0"}, AfterBlock(0, 0)),
        ({"block_number": "007"}, AfterBlock(7, -1)),
        ({"payload_id": ID, "flashblock_index": "3"}, AfterPayload(ID, 3)),  # type: ignore[arg-type]
        ({"payload_id": ID.upper()}, AfterPayload(ID, -1)),  # type: ignore[arg-type]
        ({"block_number": str(MAX_BLOCK_NUMBER)}, AfterBlock(MAX_BLOCK_NUMBER, -1)),
        ({"something_else": "1"}, CurrentPayload()),
    ],
)
def test_a_place_in_the_stream(query: dict[str, str], resume: Resume) -> None:
    assert resume_of(query) == resume


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1_000", "0x10", "1.0", "\u0661", "9" * 20, "9" * 5000])
def test_a_number_is_decimal_digits_within_what_the_log_can_hold(text: str) -> None:
    assert reason_of({"block_number": text}) == f"block_number must be a whole number from 0 to {MAX_BLOCK_NUMBER}"
    assert reason_of({"block_number": "1", "flashblock_index": text}) == (
        f"flashblock_index must be a whole number from 0 to {MAX_INDEX}"
    )


@pytest.mark.parametrize("text", ["", "0x", ID[:-1], ID + "0", ID[2:], "0x0399 352d799c31a", "0x+399735d799c31aa"])
def test_a_payload_id_is_eight_bytes_of_hex(text: str) -> None:
    assert reason_of({"payload_id": text}) == "payload_id must be 0x and 16 hex digits"


def test_an_index_alone_names_no_place() -> None:
    assert reason_of({"flashblock_index": "2"}) == "flashblock_index needs block_number or payload_id beside it"


def test_a_payload_may_be_named_with_its_block_as_the_reason_of_a_close_does() -> None:
    both = {"block_number": "1", "payload_id": ID, "flashblock_index": "7"}
    assert resume_of(both) == AfterPayload(PayloadId(ID), 7, 1)


@pytest.mark.parametrize(
    ("query", "variant"),
    [({}, Variant.TEXT), ({"encoding": "text"}, Variant.TEXT), ({"encoding": "brotli"}, Variant.BROTLI)],
)
def test_the_encoding_is_text_unless_asked_for(query: dict[str, str], variant: Variant) -> None:
    parsed = parse_query(query)
    assert isinstance(parsed, SubscribeRequest)
    assert parsed.variant is variant


@pytest.mark.parametrize("text", ["", "gzip", "TEXT", "Variant.TEXT"])
def test_another_encoding_is_refused(text: str) -> None:
    assert reason_of({"encoding": text}) == "encoding must be text or brotli"


@given(
    st.dictionaries(
        st.sampled_from(["block_number", "flashblock_index", "payload_id", "encoding", "x"]), st.text(max_size=30)
    )
)
def test_any_query_is_a_place_or_one_line_saying_why_not(query: dict[str, str]) -> None:
    parsed = parse_query(query)
    if isinstance(parsed, BadRequest):
        assert parsed.reason
        assert "\n" not in parsed.reason
    elif isinstance(parsed.resume, AfterBlock):
        assert 0 <= parsed.resume.block_number <= MAX_BLOCK_NUMBER
        assert -1 <= parsed.resume.index <= MAX_INDEX


@given(st.text(alphabet="/?&=%0123456789abxws_lockumerindptv", max_size=80))
def test_any_target_can_be_read(target: str) -> None:
    parse_query(HttpRequest("GET", "/ws?" + target, Headers()).query)


@given(st.integers(0, MAX_BLOCK_NUMBER), st.integers(0, MAX_INDEX))
def test_every_place_that_we_name_in_a_close_reason_can_be_given_back(block: int, index: int) -> None:
    query = {"block_number": str(block), "flashblock_index": str(index)}
    assert resume_of(query) == AfterBlock(block, index)


def test_a_target_is_read_once_for_many() -> None:
    raw = "payload_id=0x00000000000000aa&flashblock_index=3"
    assert parse_target(raw) is parse_target(raw)
    parsed = parse_target(raw)
    assert isinstance(parsed, Query)
    assert parsed.wanted.resume == AfterPayload(PayloadId("0x00000000000000aa"), 3)
    assert not parsed.names_encoding


def test_a_long_target_is_not_kept() -> None:
    raw = "addresses=" + ",".join(f"0x{number:040x}" for number in range(10))
    first, second = parse_target(raw), parse_target(raw)
    assert isinstance(first, Query)
    assert first is not second
    assert first == second


def test_a_target_says_what_is_wrong_with_it() -> None:
    assert parse_target("control=2") == BadRequest("control must be 0 or 1")
    found = parse_target("control=1&control=0")
    assert isinstance(found, BadRequest)
    assert found.reason.startswith("control is given more than once")
    named = parse_target("encoding=text")
    assert isinstance(named, Query)
    assert named.names_encoding
