"""What is an answer, what may be sent again, and how one call goes over the endpoints."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.providers.retry import Course, Judged, Verdict, error_of, is_read, judge, may_repeat
from appliance.wire.jsonrpc import Response

RESULT = Response(result=msgspec.Raw(b"1"))


def error(code: int, message: str = "") -> Response:
    return Response(error=msgspec.Raw(msgspec.json.encode({"code": code, "message": message})))


@pytest.mark.parametrize(
    "method",
    ["eth_call", "eth_getLogs", "eth_blockNumber", "net_version", "web3_clientVersion", "debug_traceTransaction"],
)
def test_reads_may_be_repeated(method: str) -> None:
    assert is_read(method)
    assert may_repeat(method)


@pytest.mark.parametrize(
    "method",
    [
        "eth_sendTransaction",
        "eth_sign",
        "eth_newFilter",
        "eth_getFilterChanges",
        "eth_uninstallFilter",
        "personal_unlockAccount",
        "admin_addPeer",
        "evm_mine",
        "unheard_of",
    ],
)
def test_what_is_not_known_to_be_a_read_may_not(method: str) -> None:
    assert not may_repeat(method)


def test_the_same_bytes_cannot_land_twice() -> None:
    assert may_repeat("eth_sendRawTransaction")
    assert not is_read("eth_sendRawTransaction")


@pytest.mark.parametrize(
    ("status", "response", "verdict"),
    [
        (200, RESULT, Verdict.ANSWER),
        (200, Response(result=msgspec.Raw(b"null")), Verdict.ANSWER),
        (200, None, Verdict.TRANSIENT),
        (500, None, Verdict.TRANSIENT),
        (503, None, Verdict.TRANSIENT),
        (429, None, Verdict.TRANSIENT),
        (429, error(-32000, "slow down"), Verdict.TRANSIENT),
        (401, None, Verdict.REFUSED),
        (403, error(-32000, "no such key"), Verdict.REFUSED),
        (404, None, Verdict.REFUSED),
        (404, error(-32601, "no such method"), Verdict.ANSWER),
        (400, error(-32602, "invalid argument"), Verdict.ANSWER),
        (200, error(3, "execution reverted: rate limit"), Verdict.ANSWER),
        (200, error(-32000, "execution reverted: too many requests"), Verdict.ANSWER),
        (200, error(-32000, "nonce too low"), Verdict.ANSWER),
        (200, error(-32000, "already known"), Verdict.ANSWER),
        (200, error(-32601, "the method does not exist"), Verdict.ANSWER),
        (200, error(-32005, "limit exceeded"), Verdict.TRANSIENT),
        (200, error(-32005, "query returned more than 10000 results"), Verdict.ANSWER),
        (200, error(-32000, "daily request count exceeded, request rate limited"), Verdict.TRANSIENT),
        (200, error(429, "Your app has exceeded its compute units per second capacity"), Verdict.TRANSIENT),
        (200, error(-32002, "resource unavailable"), Verdict.TRANSIENT),
        (200, error(-32603, "internal error"), Verdict.DOUBTFUL),
        (200, error(-32000, "header not found"), Verdict.DOUBTFUL),
        (200, error(-32001, "block not found"), Verdict.DOUBTFUL),
        (200, Response(error=msgspec.Raw(b'"words"')), Verdict.ANSWER),
    ],
)
def test_verdicts(status: int, response: Response | None, verdict: Verdict) -> None:
    judged = judge(status, response)
    assert judged.verdict is verdict
    assert bool(judged.why) == (verdict is not Verdict.ANSWER)


def test_a_result_is_no_error() -> None:
    assert error_of(RESULT) is None


def ask(course: Course, name: str, response: Response) -> None:
    assert course.choose([name]) == name
    course.responded(name, judge(200, response), response)


def test_each_endpoint_is_asked_once_in_order() -> None:
    course = Course("eth_call")
    assert course.choose(["a", "b"]) == "a"
    course.lost("a", "no answer")
    assert course.choose(["a", "b"]) == "b"
    course.lost("b", "no answer")
    assert course.choose(["a", "b"]) is None
    assert course.last_word() is None
    assert course.failures == {"a": "no answer", "b": "no answer"}
    assert course.tries == 2


def test_an_answer_ends_it() -> None:
    course = Course("eth_call")
    ask(course, "a", RESULT)
    assert course.choose(["b"]) is None
    assert course.last_word() is RESULT


def test_a_write_that_was_lost_goes_nowhere_else_and_one_that_never_left_does() -> None:
    lost, unsent = Course("eth_sendTransaction"), Course("eth_sendTransaction")
    for course in (lost, unsent):
        assert course.choose(["a", "b"]) == "a"
    lost.lost("a", "timed out")
    unsent.not_sent("a", "connection refused")
    assert lost.choose(["a", "b"]) is None
    assert unsent.choose(["a", "b"]) == "b"


def test_a_write_gets_the_endpoints_own_words() -> None:
    course = Course("eth_sendTransaction")
    refusal = error(-32005, "limit exceeded")
    ask(course, "a", refusal)
    assert course.last_word() is refusal


def test_a_doubtful_error_that_another_does_not_share_is_blamed() -> None:
    course = Course("eth_getBlockByHash")
    ask(course, "a", error(-32000, "header not found"))
    ask(course, "b", RESULT)
    assert course.last_word() is RESULT
    assert course.blamed == ["a"]
    assert course.failures == {"a": "-32000 header not found"}


def test_a_doubtful_error_that_two_share_is_the_answer_and_nobodys_fault() -> None:
    course = Course("eth_call")
    ask(course, "a", error(-32603, "internal"))
    ask(course, "b", error(-32603, "internal error"))
    assert course.choose(["c"]) is None
    assert course.blamed == []
    assert error_of(course.last_word() or RESULT)


def test_a_doubtful_error_of_the_only_one_who_spoke_is_the_answer() -> None:
    course = Course("eth_call")
    doubtful = error(-32603, "internal")
    ask(course, "a", doubtful)
    assert course.choose(["b"]) == "b"
    course.lost("b", "timed out")
    assert course.last_word() is doubtful


OUTCOMES = st.sampled_from(["not_sent", "lost", "answer", "doubtful", "transient", "refused"])


@given(st.sampled_from(["eth_call", "eth_sendRawTransaction", "eth_sendTransaction", "x"]), st.lists(OUTCOMES))
def test_what_may_not_be_repeated_is_sent_once_at_most(method: str, outcomes: list[str]) -> None:
    course, sent = Course(method), 0
    names = [f"n{index}" for index in range(len(outcomes))]
    responses = {
        "answer": (Judged(Verdict.ANSWER), RESULT),
        "doubtful": (Judged(Verdict.DOUBTFUL, "why"), error(-32603)),
        "transient": (Judged(Verdict.TRANSIENT, "why"), None),
        "refused": (Judged(Verdict.REFUSED, "why"), None),
    }
    for outcome in outcomes:
        name = course.choose(names)
        if name is None:
            break
        sent += outcome != "not_sent"
        if outcome == "not_sent":
            course.not_sent(name, "why")
        elif outcome == "lost":
            course.lost(name, "why")
        else:
            course.responded(name, *responses[outcome])
    assert may_repeat(method) or sent <= 1
    assert "answer" not in outcomes[: course.tries] or course.last_word() is not None
