"""A builder's answer has one reading: no key twice, none in another spelling, not more values than a block has."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import DecodeError
from appliance.wire.engine_answers import decode_forkchoice, decode_payload, decode_verdict
from appliance.wire.scrutiny import MAX_OTHER_BYTES, MAX_VALUES, check_fields, check_size
from tests.engine import messages as m

HONEST = m.Block("honest", transactions=("0x02" + "5a" * 100, "0x02" + "5b" * 100))


def compact(block: m.Block = HONEST, version: int = 4) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(block.answer(version=version)))


def check(body: bytes, version: int = 4) -> None:
    check_size(body)
    check_fields(body, decode_payload(body, version).transactions)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("write", [compact, lambda block, version: block.answer(version=version)])
@pytest.mark.parametrize("block", [HONEST, m.Block("bare", deposits=()), m.Block("deposits")])
def test_an_honest_answer_passes(block: m.Block, write: Callable[[m.Block, int], bytes], version: int) -> None:
    check(write(block, version), version)


def test_an_indented_answer_passes() -> None:
    check(json.dumps(json.loads(HONEST.answer()), indent=2).encode())


@pytest.mark.parametrize(
    ("place", "extra"),
    [
        (b'"executionPayload":{', b'"blockHash":"0x1",'),
        (b'"executionPayload":{', b'"BlockHash":"0x1",'),
        (b'"executionPayload":{', b'"block\\u0048ash":"0x1",'),
        (b'"executionPayload":{', b'"transactions":["0x01"],'),
        (b'"executionPayload":{', b'"Transactions":["0x01"],'),
        (b'"executionPayload":{', b'"Transactions":[],"other":1,'),
        (b'"executionPayload":{', b'"tran\xc5\xbfactions":[],'),  # a long s, which Go folds to s
        (b'"executionPayload":{', b'"bloc\xe2\x84\xaaHash":"0x1",'),  # the sign of kelvin, which it folds to k
        (b'"result":{', b'"executionPayload":null,'),
        (b'"result":{', b'"ExecutionPayload":{},'),
        (b'"result":{', b'"ParentBeaconBlockRoot":"0x1",'),
        (b'"result":{', b'"parentBeaconBlockRoot":"0x1",'),
        (b"{", b'"Result":{},'),
        (b"{", b'"error":null,"ERROR":null,'),
        (b"{", b'"result":{},'),
        (b'"executionPayload":{', b'"new":{"a":1,"A":2},'),
    ],
)
def test_a_second_key_is_refused(place: bytes, extra: bytes) -> None:
    for body in (compact(), HONEST.answer().replace(b'": ', b'":').replace(b", ", b",")):
        assert place in body
        with pytest.raises(DecodeError, match="getPayload answer: "):
            check(body.replace(place, place + extra, 1))


def test_a_second_key_behind_is_refused() -> None:
    first = b'{"executionPayload":{"transactions":["0x01"]},'
    for end, extra in ((b"}}", b'},"executionPayload":{}}'), (b"}}", b',"transactions":["0x03"]}}')):
        body = b'{"id":1,"result":' + compact().partition(b'"result":')[2]
        assert body.endswith(end)
        changed = body[: -len(end)] + extra + b"}"
        with pytest.raises(DecodeError):
            check(changed)
    with pytest.raises(DecodeError):
        check(compact().replace(b"{", b'{"result":' + first[:-1] + b"},", 1))


def test_the_root_in_another_spelling_alone_is_refused() -> None:
    """Where there is no root ours is put in, and op-node would take the builder's all the same."""
    body = compact().replace(b'"parentBeaconBlockRoot"', b'"parentbeaconblockroot"')
    assert not decode_payload(body, 4).names_beacon_root
    with pytest.raises(DecodeError, match="'parentbeaconblockroot' instead of 'parentBeaconBlockRoot'"):
        check(body)


@pytest.mark.parametrize("text", ['x"transactions":["0x', '["0x01"]', '{"a":1,"a":2}', '"transactions":['])
def test_what_stands_in_a_string_is_no_key(text: str) -> None:
    answer = msgspec.json.decode(compact())
    answer["result"]["executionPayload"]["note"] = text
    answer["result"] = {"note": text, **answer["result"]}
    check(msgspec.json.encode(answer))


def test_a_list_of_transactions_that_stands_elsewhere_too_hides_nothing() -> None:
    """The first list of that name is not the one that was read, but it is all the same as it."""
    transactions = msgspec.json.encode(msgspec.json.decode(compact())["result"]["executionPayload"]["transactions"])
    decoy = b'"note":{"transactions":%b},' % transactions
    check(compact().replace(b'"result":{', b'"result":{' + decoy, 1))
    with pytest.raises(DecodeError):
        check(compact().replace(b'"result":{', b'"result":{' + decoy + b'"BlockValue":1,', 1))


def test_more_values_than_a_block_has_are_refused_before_they_are_sliced() -> None:
    class Counted(bytes):
        looks = 0

        def find(self, *arguments: object) -> int:
            Counted.looks += 1
            return super().find(*arguments)  # type: ignore[arg-type]  # whatever is looked for

    body = Counted(compact().replace(b'"transactions":[', b'"transactions":[' + b"0," * 5_000_000))
    with pytest.raises(DecodeError, match=f"more than {MAX_VALUES} values"):
        check_size(body)
    assert Counted.looks <= MAX_VALUES + 2


def test_a_large_block_is_not_refused() -> None:
    many = m.Block("many", transactions=tuple("0x02" + f"{number:0220x}" for number in range(20_000)))
    body = compact(many)
    assert len(body) > 4_000_000
    check(body)


def test_much_beside_the_transactions_is_refused() -> None:
    body = compact().replace(b'"result":{', b'"result":{"blob":"%b",' % (b"0" * MAX_OTHER_BYTES), 1)
    with pytest.raises(DecodeError, match="bytes beside the transactions"):
        check(body)


def test_numbers_of_any_length_are_not_read() -> None:
    check(compact().replace(b'"result":{', b'"result":{"n":%b,"f":1e99999,' % (b"9" * 500_000), 1))


def test_deep_nesting_is_refused() -> None:
    deep = b"[" * 900 + b"]" * 900
    body = compact().replace(b'"result":{', b'"result":{"deep":%b,' % deep, 1)

    def deeper(frames: int) -> None:
        if frames:
            deeper(frames - 1)
        else:
            check_fields(body, decode_payload(compact(), 4).transactions)

    with pytest.raises((DecodeError, RecursionError)):
        deeper(200)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "A", "b", "blockHash", "blockhash", "transactions"]), JSON), max_size=4)
)
def test_what_passes_reads_the_same_in_go(members: list[tuple[str, Any]]) -> None:
    """The promise: of what passes, no two keys are one to a decoder that ignores case."""
    text = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in members)
    body = compact().replace(b'"result":{', b'"result":{' + f'"more":{{{text}}},'.encode(), 1)
    keys = [key for key, _ in members]
    refused = False
    try:
        check(body)
    except DecodeError:
        refused = True
    if len({key.lower() for key in keys}) < len(keys) or "blockhash" in keys:
        assert refused


def test_words_of_the_other_side_are_cut_short() -> None:
    """They are logged and kept with a decision: 256 decisions of 5 MB each would be the end."""
    status = {"status": "SYNCING", "validationError": "x" * 1_000_000}
    assert len(decode_verdict(m.result(status)).validation_error or "") == 300
    result = decode_forkchoice(m.result({"payloadStatus": status, "payloadId": None}))
    assert len(result.validation_error or "") == 300


def test_a_small_answer_is_small() -> None:
    status = {"status": "SYNCING", "validationError": "x" * 5_000_000}
    with pytest.raises(DecodeError, match="newPayload answer: 5000"):
        decode_verdict(m.result(status))
