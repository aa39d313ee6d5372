"""The fake execution client and builder: fast, and right in what the appliance looks at."""

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from bench import blocks
from bench.caller import Caller, CallError
from bench.children import Child, ChildError
from bench.upstreams import Upstream

SECRET = b"s" * 32


def ask(upstream: Upstream, body: bytes) -> dict[str, object]:
    answer: dict[str, object] = json.loads(upstream.answer(body)[0])
    return answer


@pytest.mark.parametrize("size", [10_240, 307_200, 3_145_728])
def test_a_block_has_the_size_and_what_the_build_asked_for(size: int) -> None:
    upstream = Upstream(blocks.BUILDER)
    upstream.resize(size)
    started = ask(upstream, blocks.build(1, 0x1234, l2_only=False))
    assert started["result"] == {
        "payloadStatus": {"status": "VALID", "latestValidHash": None, "validationError": None},
        "payloadId": "0x0000000000000001",
    }
    answer, build = upstream.answer(blocks.get_payload(2, "0x0000000000000001"))
    assert build is None
    assert size - 600 < len(answer) <= size + 100
    payload = json.loads(answer)["result"]["executionPayload"]
    assert payload["timestamp"] == "0x1234"
    assert payload["parentHash"] == blocks.PARENT_HASH
    assert payload["transactions"][0] == blocks.DEPOSIT
    assert payload["blockHash"] == "0x" + "b1" * 24 + "0000000000000001"


def test_each_build_has_its_own_id_and_is_reported() -> None:
    upstream = Upstream(blocks.EL)
    builds = [upstream.answer(blocks.build(number, 7, l2_only=True))[1] for number in range(3)]
    assert len(set(builds)) == 3
    assert upstream.answer(blocks.forkchoice_updated(9))[1] is None


def test_every_payload_is_valid_under_its_own_hash() -> None:
    params = [{"blockHash": "0x" + "cd" * 32, "transactions": ["0x00" * 4000]}, []]
    body = json.dumps({"method": "engine_newPayloadV3", "params": params, "id": "abc"}).encode()
    answer = ask(Upstream(blocks.EL), body)
    assert answer["id"] == "abc"
    assert answer["result"] == {
        "status": "VALID",
        "latestValidHash": "0x" + "cd" * 32,
        "validationError": None,
    }


def test_what_is_no_request_is_answered_with_an_error() -> None:
    assert "error" in ask(Upstream(blocks.EL), b"[]")


@pytest.fixture
def el() -> Iterator[Child]:
    with Child("bench.upstreams", blocks.EL) as child:
        yield child


def test_the_caller_gets_a_large_block_over_a_real_socket(el: Child) -> None:
    el.ask("size", bytes=3_145_728)
    with closing(Caller(el.ready["port"], SECRET)) as caller:
        started, _ = caller.call(blocks.build(1, 7, l2_only=True))
        payload_id = json.loads(started)["result"]["payloadId"]
        answer, took_s = caller.call(blocks.get_payload(2, payload_id))
    assert len(answer) > 3_000_000
    assert took_s > 0
    assert json.loads(answer)["id"] == 2


def test_the_caller_says_when_the_server_hangs_up(el: Child) -> None:
    caller = Caller(el.ready["port"], SECRET)
    el.close()
    with closing(caller), pytest.raises((CallError, OSError)):
        caller.call(blocks.forkchoice_updated(1))


def test_a_child_that_does_not_start_is_a_clear_error() -> None:
    with pytest.raises(ChildError, match=r"bench\.upstreams ended with exit code 1"):
        Child("bench.upstreams")
