"""JSON-RPC: ids come back as they came, bad bytes are the sender's fault, bodies are not touched."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import DecodeError
from appliance.wire.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    RequestError,
    decode_batch,
    decode_request,
    decode_response,
    encode_batch,
    encode_error,
    encode_request,
    encode_result,
    is_batch,
    readdress,
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@pytest.mark.parametrize("identifier", [b"1", b"-1", b"1.50", b'"a b"', b"null", b'"\\u00e9"', b"18446744073709551616"])
def test_an_id_is_kept_as_it_came(identifier: bytes) -> None:
    request = decode_request(b'{"jsonrpc":"2.0","id": %b ,"method":"m","params":[]}' % identifier)
    assert bytes(request.id) == identifier
    assert not request.is_notification


def test_a_request_without_id_is_a_notification() -> None:
    request = decode_request(b'{"jsonrpc":"2.0","method":"m"}')
    assert request.is_notification
    assert bytes(request.params) == b""


def test_params_are_the_bytes_that_came() -> None:
    params = b'[ {"a" : 1e400, "b":123456789012345678901234567890}, "\\u00e9" ]'
    assert bytes(decode_request(b'{"method":"m","id":1,"params":%b}' % params).params) == params


@pytest.mark.parametrize(
    ("body", "code", "identifier"),
    [
        (b"", PARSE_ERROR, b"null"),
        (b"{", PARSE_ERROR, b"null"),
        (b"nonsense", PARSE_ERROR, b"null"),
        (b'{"method":"m"} {}', PARSE_ERROR, b"null"),
        (b'{"method":"\xff"}', PARSE_ERROR, b"null"),
        (b'{"method":"m","params":' + b"[" * 100_000, PARSE_ERROR, b"null"),
        (b"1", INVALID_REQUEST, b"null"),
        (b"[]", INVALID_REQUEST, b"null"),
        (b'{"id":7}', INVALID_REQUEST, b"7"),
        (b'{"id":"x","method":5}', INVALID_REQUEST, b'"x"'),
        (b'{"id":"x","method":null}', INVALID_REQUEST, b'"x"'),
    ],
)
def test_a_bad_request_has_a_code_and_where_possible_its_id(body: bytes, code: int, identifier: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        decode_request(body)
    assert (caught.value.code, caught.value.identifier) == (code, identifier)
    assert str(caught.value)


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"[]", True), (b" \r\n\t[1]", True), (b"{}", False), (b"", False), (b'"["', False)],
)
def test_a_batch_is_known_by_its_first_byte(body: bytes, expected: bool) -> None:
    assert is_batch(body) is expected


def test_a_batch_is_split_into_the_bytes_of_its_elements() -> None:
    elements = decode_batch(b'[ {"a": 1} ,2, [3 ] ]', limit=3)
    assert [bytes(element) for element in elements] == [b'{"a": 1}', b"2", b"[3 ]"]


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"[]", INVALID_REQUEST, "empty batch"),
        (b"[1,2,3,4]", INVALID_REQUEST, "batch of 4 calls; at most 3 are taken"),
        (b"[1,", PARSE_ERROR, "parse error"),
        (b"[" * 100_000, PARSE_ERROR, "parse error"),
    ],
)
def test_a_bad_batch_is_refused_as_a_whole(body: bytes, code: int, text: str) -> None:
    with pytest.raises(RequestError, match=text) as caught:
        decode_batch(body, limit=3)
    assert caught.value.code == code


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 100_000, b'{"id":\xff}'])
def test_an_answer_that_is_none_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError, match="not a JSON-RPC answer"):
        decode_response(body)


def test_a_request_is_encoded_with_and_without_id() -> None:
    assert json.loads(encode_request(b'"x"', "m", b"[1]")) == {
        "jsonrpc": "2.0",
        "id": "x",
        "method": "m",
        "params": [1],
    }
    assert "id" not in json.loads(encode_request(b"", "m", b"[]"))


def test_an_error_carries_id_code_text_and_data() -> None:
    assert json.loads(encode_error(b"3", -32603, 'it "broke"', b'{"status":"INVALID"}')) == {
        "jsonrpc": "2.0",
        "id": 3,
        "error": {"code": -32603, "message": 'it "broke"', "data": {"status": "INVALID"}},
    }
    assert json.loads(encode_error(b"", -32700, "x")) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32700, "message": "x"},
    }


def test_a_batch_answer_with_nothing_to_say_has_no_bytes() -> None:
    assert encode_batch([]) == b""
    assert encode_batch([b"1", b"2"]) == b"[1,2]"


def test_readdressing_to_the_same_id_gives_the_very_same_object() -> None:
    body = b'{"id": 1 , "result":[1]}'
    assert readdress(body, b"1") is body


@pytest.mark.parametrize("member", [b'"result":{"a": 1}', b'"error":{"code":-38001,"message":"x","data":[1]}'])
def test_readdressing_changes_the_id_alone(member: bytes) -> None:
    body = b'{"jsonrpc":"2.0","id":1,%b}' % member
    assert readdress(body, b'"other"') == b'{"jsonrpc":"2.0","id":"other",%b}' % member


def test_readdressing_an_answer_whose_error_is_null_keeps_its_result() -> None:
    assert json.loads(readdress(b'{"id":1,"result":5,"error":null}', b"2"))["result"] == 5


@given(result=JSON_VALUES, identifier=JSON_VALUES.filter(lambda value: value is None or isinstance(value, str | int)))
def test_any_result_goes_through_whole(result: object, identifier: object) -> None:
    raw_id, raw_result = msgspec.json.encode(identifier), msgspec.json.encode(result)
    body = encode_result(raw_id, raw_result)
    assert json.loads(body) == {"jsonrpc": "2.0", "id": identifier, "result": result}
    assert bytes(decode_response(body).result) == raw_result


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_request_error(body: bytes) -> None:
    for decode in (lambda: decode_request(body), lambda: decode_batch(body, limit=5)):
        with contextlib.suppress(RequestError):
            decode()
