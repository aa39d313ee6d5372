"""A large answer read in one pass says what reading it in the ordinary way says, whatever is in it."""

from typing import Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.domain.errors import DecodeError
from appliance.wire import payload_slices
from appliance.wire.engine_answers import BuiltPayload, RefusedError, decode_payload
from appliance.wire.engine_bodies import new_payload_request, payload_answer
from appliance.wire.payload_slices import LARGE_BYTES, Skeleton
from appliance.wire.scrutiny import check_fields

HASH: Final = "0x" + "ab" * 32
FIELDS: Final = (
    f'"parentHash":"{HASH}","blockHash":"{HASH}","blockNumber":"0x7","timestamp":"0x66","gasUsed":"0x5208",'
    f'"feeRecipient":"0x{"42" * 20}","prevRandao":"{HASH}","gasLimit":"0x3938700","withdrawals":[]'
)
ROOT: Final = "0x" + "cd" * 32

FOUND: Final = {"new_payload_parts", "skeleton"}  # what only the quick way has

Said = BuiltPayload | type[Exception]


def answer(
    transactions: str = '["0x01","0x02"]', *, key: str = '"transactions":', inside: str = "", beside: str = ""
) -> bytes:
    payload = f"{{{FIELDS},{key}{transactions}{inside}}}"
    result = f'{{"executionPayload":{payload},"blockValue":"0x10","parentBeaconBlockRoot":"{ROOT}"{beside}}}'
    return f'{{"jsonrpc":"2.0","id":"q","result":{result}}}'.encode()


def said(body: bytes, *, large_from: int, version: int = 4) -> Said:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload_slices, "LARGE_BYTES", large_from)
        try:
            return decode_payload(body, version)
        except (DecodeError, RefusedError) as error:
            return type(error)


def facts(payload: Said) -> object:
    """Everything that can be seen of it, parts as bytes."""
    if not isinstance(payload, BuiltPayload):
        return payload
    fields = {name: getattr(payload, name) for name in BuiltPayload.__slots__ if name not in FOUND}
    fields["result"] = bytes(payload.result)
    fields["transactions"] = [bytes(each) for each in payload.transactions]
    made = [new_payload_request(payload, root) for root in (None, ROOT)]
    answers = [payload_answer(payload, identifier, root) for identifier in (b'"q"', b"9") for root in (None, HASH)]
    return fields, made, answers


def same_both_ways(body: bytes, version: int = 4) -> Said:
    quickly = said(body, large_from=0, version=version)
    assert facts(quickly) == facts(said(body, large_from=1 << 30, version=version))
    return quickly


def was_quick(payload: Said) -> bool:
    return isinstance(payload, BuiltPayload) and payload.new_payload_parts is not None


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "body",
    [
        answer(),
        answer("[]"),
        answer('[ "0x01" ,\n"0x02"\t]'),
        answer(inside=',"withdrawalsRoot":"0x00","blobGasUsed":"0x0"', beside=',"executionRequests":["0x00"]'),
        answer(beside=',"executionRequests":null,"blobsBundle":{"commitments":[],"proofs":[],"blobs":[]}'),
        answer('["0x01",{"a":1}]'),
    ],
)
def test_plain_answers_are_read_in_one_pass_and_say_the_same(body: bytes, version: int) -> None:
    payload = same_both_ways(body, version)
    assert was_quick(payload) == (version > 1)


@pytest.mark.parametrize(
    "body",
    [
        answer(key='"transactions" : '),  # not as clients write it
        answer(beside=',"transactions":[]'),  # twice
        answer(inside=',"transactions":["0x03"]'),
        answer(beside=',"note":"\\"transactions\\":["'),  # a backslash
        answer('["0x01\\u0022]"]'),
        answer('["0x01]","0x02"]'),  # the first "]" is no end
        answer('[["0x01"],"0x02"]'),
        answer('["0x01",[]]'),
        answer("[1,]"),
        answer('["0x01" "0x02"]'),
        answer("null"),
        answer('"transactions"'),
        answer('["0x01"', inside='"]'),
        answer(key='"other":'),
        answer(key='"other":', beside=',"transactions":["0x01"]'),
        answer(key='"transactions":[],"other":') + b"x",
        answer() + b"]",
        answer()[:-1],
        b'{"id":1,"transactions":["0x01"],"error":{"code":-38001,"message":"unknown payload"}}',
        b'{"id":1,"transactions":["0x01"],"result":null}',
        b'{"id":1,"transactions":["0x01"],"result":{"executionPayload":{}}}',
        b'"transactions":["0x01"]',
        b'["transactions":["0x01"]]',
    ],
)
def test_what_is_not_plain_is_left_to_the_ordinary_decoder(body: bytes) -> None:
    assert not was_quick(same_both_ways(body))


PIECES: Final = st.sampled_from(
    ['"transactions"', '"transactions":[', ":", ",", "[", "]", "{", "}", '"', '"0x01"', '"]', "\\", " ", "1", "null"]
)


@given(
    before=st.lists(PIECES, max_size=6).map("".join),
    inside=st.lists(PIECES, max_size=10).map("".join),
    after=st.lists(PIECES, max_size=6).map("".join),
    place=st.integers(0, 400),
)
@example(before="", inside='"0x01","],",":5,"', after="", place=0)
@example(before='"a"', inside="", after="", place=0)
def test_nothing_crafted_reads_in_two_ways(before: str, inside: str, after: str, place: int) -> None:
    """A builder writes the bytes: what is judged here must be what any other reader finds in them."""
    plain = answer(f"[{inside}]", beside=after).decode()
    at = place % len(plain)
    same_both_ways((plain[:at] + before + plain[at:]).encode())


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["transactions", "executionPayload", "result", "a"]), inner)
        ),
    )
)
def test_unknown_fields_of_any_shape_change_nothing(value: object) -> None:
    text = msgspec.json.encode(value).decode()
    same_both_ways(answer(inside=f',"new":{text}', beside=f',"newer":{text}'))


def test_small_answers_take_the_ordinary_way() -> None:
    transactions = ",".join(['"0x' + "5a" * 500 + '"'] * 100)
    large = answer(f"[{transactions}]")
    assert len(large) > LARGE_BYTES
    assert was_quick(decode_payload(large, 4))
    assert Skeleton.find(answer()) is None
    assert facts(decode_payload(large, 4)) == facts(said(large, large_from=1 << 30))


@pytest.mark.parametrize(
    "beside", ["", ',"blockvalue":"0x11"', ',"blockValue":"0x11"', ',"parentBeaconBlockRoot":null', ',"new":1']
)
def test_a_builders_answer_is_scrutinised_by_its_skeleton_as_by_itself(beside: str) -> None:
    body = answer(beside=beside)
    payload = said(body, large_from=0)
    assert isinstance(payload, BuiltPayload)
    assert payload.skeleton == answer("[]", beside=beside)
    assert refusal(payload.skeleton, ()) == refusal(body, payload.transactions)


def refusal(body: bytes, transactions: tuple[msgspec.Raw, ...]) -> str | None:
    try:
        check_fields(body, transactions)
    except DecodeError as error:
        return str(error)
    return None
