"""A transaction that reaches a second endpoint behind the first: which errors are the sender's success."""

import msgspec
import pytest
import trio
from eth_hash.auto import keccak
from trio.testing import MockClock

from appliance.domain.errors import UnavailableError
from appliance.providers.links import Attempt
from appliance.providers.resent import Heard, hash_of, hear, is_transaction
from appliance.wire.jsonrpc import Response
from tests.providers.test_group import Behaviour, answers, breaks, error, group_of, refuses, result

RAW = "0x02c0ffee"
PARAMS = msgspec.json.encode([RAW])
HASH = "0x" + keccak(bytes.fromhex(RAW[2:])).hex()
KNOWN = error(-32000, "already known")
TOO_LOW = error(-32000, "nonce too low: next nonce 5, tx nonce 4")


def says(sent: tuple[int, Response], found: object, *, resent: bool = False) -> Behaviour:
    """Answers the transaction with ``sent`` and eth_getTransactionByHash with ``found``."""

    async def answer(attempt: Attempt, _timeout_s: float) -> tuple[int, Response | None]:
        attempt.sent, attempt.resent = True, resent
        if attempt.method != "eth_getTransactionByHash":
            return sent
        assert attempt.params == msgspec.json.encode([HASH])
        if isinstance(found, Exception):
            raise found
        return result(found)

    return answer


async def send(*behaviours: Behaviour) -> tuple[Response, list[str]]:
    """The answer, and whom a transaction is watched at."""
    group, _ = group_of(*behaviours)
    response = await group.call("eth_sendRawTransaction", PARAMS)
    return response, [f"{each.endpoint} {each.hash}" for each in group.watch.due(trio.current_time(), 10)]


async def test_already_known_at_the_second_is_its_hash_and_watched(autojump_clock: MockClock) -> None:
    response, watched = await send(breaks, says(KNOWN, None))
    assert bytes(response.result) == msgspec.json.encode(HASH)
    assert watched == [f"n1 {HASH}"]


async def test_the_same_on_a_second_connection_to_one_endpoint(autojump_clock: MockClock) -> None:
    response, _ = await send(says(KNOWN, None, resent=True))
    assert bytes(response.result) == msgspec.json.encode(HASH)


@pytest.mark.parametrize("first", [[], [refuses]], ids=["alone", "behind one that it never left for"])
async def test_who_sends_it_twice_himself_is_told_so(first: list[Behaviour], autojump_clock: MockClock) -> None:
    response, watched = await send(*first, says(KNOWN, {"hash": HASH}))
    assert (bytes(response.result), watched) == (b"", [])
    assert b"already known" in bytes(response.error)


async def test_a_nonce_that_is_too_low_is_success_where_the_transaction_is_there(autojump_clock: MockClock) -> None:
    response, _ = await send(breaks, says(TOO_LOW, {"hash": HASH.upper().replace("0X", "0x"), "blockNumber": "0x1"}))
    assert bytes(response.result) == msgspec.json.encode(HASH)


@pytest.mark.parametrize(
    "found",
    [None, {"hash": "0x01"}, "nonsense", UnavailableError("no answer")],
    ids=["null", "another", "odd", "silent"],
)
async def test_otherwise_it_is_passed_on(found: object, autojump_clock: MockClock) -> None:
    response, watched = await send(breaks, says(TOO_LOW, found))
    assert b"nonce too low" in bytes(response.error)
    assert watched == []


async def test_other_errors_and_results_pass_as_they_are(autojump_clock: MockClock) -> None:
    response, _ = await send(breaks, says(error(-32000, "insufficient funds"), {"hash": HASH}))
    assert b"insufficient funds" in bytes(response.error)
    response, watched = await send(breaks, answers(result("0x17")))
    assert (bytes(response.result), watched) == (b'"0x17"', ["n1 0x17"])


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ("already known", Heard.ALREADY_KNOWN),
        ("AlreadyKnown", Heard.ALREADY_KNOWN),
        ("Known transaction", Heard.ALREADY_KNOWN),
        ("transaction already imported", Heard.ALREADY_KNOWN),
        ("nonce too low", Heard.NONCE_TOO_LOW),
        ("OldNonce, Current nonce: 5", Heard.NONCE_TOO_LOW),
        ("Nonce too low", Heard.NONCE_TOO_LOW),
        ("replacement transaction underpriced", Heard.NOTHING),
        ("nonce too high", Heard.NOTHING),
    ],
)
def test_words_of_several_clients(message: str, heard: Heard) -> None:
    assert hear(error(-32000, message)[1]) is heard


@pytest.mark.parametrize("params", [b"[]", b"{}", b"[1]", b'["0xzz"]', b"x", b'["0x03"]'])
def test_parameters_without_a_transaction_have_no_hash(params: bytes) -> None:
    assert hash_of(params) is None


def test_only_the_transaction_itself_is_found() -> None:
    assert not is_transaction(None, HASH)
    assert not is_transaction(result(None)[1], HASH)
    assert is_transaction(result({"hash": HASH})[1], HASH)
