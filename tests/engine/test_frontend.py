"""The HTTP face: probes, tokens, single calls and batches, with the multiplexer left out."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from appliance.domain.health import Health
from appliance.domain.payloads import PayloadId
from appliance.engine.events import Reply, Ticket
from appliance.engine.frontend import MAX_BATCH, Frontend
from appliance.engine.metrics import EngineMetrics
from appliance.net.early_answer import EarlyAnswer
from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.wire import jwt
from appliance.wire.engine import Call, GetPayload, Other
from tests.engine import messages as m

SECRET = b"\x22" * 32
NOW = 1_700_000_000.0
AUTHORIZED = Headers({"authorization": f"Bearer {jwt.sign(SECRET, NOW)}"})


class Machine:
    """Answers as the multiplexer would; ``replies`` by request body."""

    def __init__(self) -> None:
        self.asked: list[tuple[Call, bytes, bytes]] = []
        self.replies: dict[bytes, Reply] = {}

    async def ask(self, call: Call, identifier: bytes, body: bytes, early: EarlyAnswer | None) -> Reply:
        self.asked.append((call, identifier, body))
        return self.replies.get(body) or Reply(Ticket(1), m.result("ok", json.loads(identifier or b"null")))


class Face:
    """A frontend over a fake machine."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.health = Health.OK
        self.registry = CollectorRegistry()
        self.frontend = Frontend(
            SECRET,
            self.machine.ask,
            lambda: self.health,
            EngineMetrics.create(self.registry),
            wall_clock=lambda: NOW,
        )

    async def post(self, body: bytes) -> HttpResponse:
        return await self.frontend.handle(HttpRequest("POST", "/", AUTHORIZED, body))


@pytest.fixture
def face() -> Face:
    return Face()


@pytest.mark.parametrize(
    ("health", "text"),
    [
        (Health.OK, b"OK"),
        (Health.PARTIAL, b"Partial Content"),
        (Health.UNAVAILABLE, b"Service Unavailable"),
    ],
)
async def test_healthz_answers_rollup_boosts_codes(face: Face, health: Health, text: bytes) -> None:
    face.health = health
    response = await face.frontend.handle(HttpRequest("GET", "/healthz", Headers()))
    assert (response.status, response.body) == (int(health), text)


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "HEAD"])
async def test_calls_are_posts(face: Face, method: str) -> None:
    response = await face.frontend.handle(HttpRequest(method, "/", AUTHORIZED))
    assert (response.status, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, b"no Authorization header"),
        ("Basic x", b"not a Bearer token"),
        ("Bearer x", b"not valid"),
        (f"Bearer {jwt.sign(b'1' * 32, NOW)}", b"another secret"),
        (f"Bearer {jwt.sign(SECRET, NOW - 61)}", b"more than 60 s"),
        (f"Bearer {jwt.sign(SECRET, NOW + 61)}", b"more than 60 s"),
    ],
)
async def test_without_a_good_token_it_is_401_with_the_reason(face: Face, token: str | None, reason: bytes) -> None:
    headers = Headers({"authorization": token} if token else {})
    response = await face.frontend.handle(HttpRequest("POST", "/", headers, m.forkchoice()))
    assert response.status == 401
    assert reason in response.body
    assert face.machine.asked == []
    assert face.registry.get_sample_value("engine_unauthorized_total") == 1


async def test_any_path_takes_calls(face: Face) -> None:
    for path in ("/", "/anything?x=1"):
        response = await face.frontend.handle(HttpRequest("POST", path, AUTHORIZED, m.request("eth_chainId", [])))
        assert response.body == m.result("ok")


@pytest.mark.parametrize(
    ("body", "code", "identifier"),
    [
        (b"", -32700, None),
        (b"{", -32700, None),
        (b'{"id":"a"}', -32600, "a"),
        (b"[]", -32600, None),
        (b"7", -32600, None),
    ],
)
async def test_what_is_no_call_is_a_json_rpc_error(face: Face, body: bytes, code: int, identifier: object) -> None:
    response = await face.post(body)
    answer = json.loads(response.body)
    assert (response.status, answer["error"]["code"], answer["id"]) == (200, code, identifier)
    assert face.machine.asked == []


@given(st.binary(max_size=60))
async def test_any_bytes_get_an_answer(body: bytes) -> None:
    assert (await Face().post(body)).status == 200


async def test_ids_go_to_the_machine_as_they_came(face: Face) -> None:
    await face.post(b'{"id" : 1.50 ,"method":"engine_getPayloadV3","params":["0x01"]}')
    ((call, identifier, _),) = face.machine.asked
    assert (call, identifier) == (GetPayload(3, PayloadId("0x01")), b"1.50")


async def test_the_machines_status_and_type_are_passed_on(face: Face) -> None:
    body = m.request("eth_chainId", [])
    face.machine.replies[body] = Reply(Ticket(1), b"x", 404, "text/html")
    response = await face.post(body)
    assert (response.status, response.body, response.headers["content-type"]) == (404, b"x", "text/html")


@pytest.mark.parametrize("reply", [Reply(Ticket(1), m.error(), failure="l2: down"), Reply(Ticket(1), b"x", 503)])
async def test_a_notification_is_done_but_not_answered(face: Face, reply: Reply) -> None:
    body = b'{"jsonrpc":"2.0","method":"eth_x","params":[]}'
    face.machine.replies[body] = reply
    response = await face.post(body)
    assert (response.status, response.body) == (reply.status, b"")
    assert [asked for _, _, asked in face.machine.asked] == [body]


async def test_an_id_of_null_wants_an_answer(face: Face) -> None:
    assert (await face.post(b'{"id":null,"method":"eth_x"}')).body == m.result("ok", None)


# --- batches ---


async def test_a_batch_for_the_el_alone_goes_there_whole(face: Face) -> None:
    body = b'[ {"id":1,"method":"eth_chainId"} ,\n {"id":2,"method":"eth_blockNumber"} ]'
    face.machine.replies[body] = Reply(Ticket(1), b"[1, 2]", 200)
    assert (await face.post(body)).body == b"[1, 2]"
    assert face.machine.asked == [(Other(), b"null", body)]


async def test_when_the_el_is_down_each_call_of_its_batch_gets_an_error(face: Face) -> None:
    body = b'[{"id":1,"method":"eth_chainId"},{"method":"eth_x"},{"id":"b","method":"eth_chainId"}]'
    face.machine.replies[body] = Reply(Ticket(1), b"{}", failure="l2: down")
    answers = json.loads((await face.post(body)).body)
    assert [(answer["id"], answer["error"]["message"]) for answer in answers] == [(1, "l2: down"), ("b", "l2: down")]


async def test_a_batch_with_engine_calls_is_answered_one_by_one_in_order(face: Face) -> None:
    elements = [m.new_payload(m.Block("b"), 1), m.forkchoice(identifier="2"), m.request("eth_chainId", [], None)]
    response = await face.post(b"[" + b" , ".join(elements) + b"]")
    assert json.loads(response.body) == [json.loads(m.result("ok", identifier)) for identifier in (1, "2", None)]
    assert [body for _, _, body in face.machine.asked] == elements


async def test_bad_elements_get_errors_in_their_place(face: Face) -> None:
    response = await face.post(b'[1, {"id":5}, %b, []]' % m.forkchoice(identifier=9))
    answers = json.loads(response.body)
    assert [answer["id"] for answer in answers] == [None, 5, 9, None]
    assert [answer.get("error", {}).get("code") for answer in answers] == [-32600, -32600, None, -32600]


async def test_notifications_in_a_batch_are_done_but_not_answered(face: Face) -> None:
    notification = b'{"method":"engine_newPayloadV3","params":[]}'
    assert (await face.post(b"[%b,%b]" % (notification, m.forkchoice()))).body == b"[%b]" % m.result("ok")
    assert (await face.post(b"[%b]" % notification)).body == b""
    assert len(face.machine.asked) == 3


async def test_an_answer_that_is_no_json_rpc_does_not_break_the_batch(face: Face) -> None:
    body = m.forkchoice(identifier=4)
    face.machine.replies[body] = Reply(Ticket(1), b"<html>", 502)
    (answer,) = json.loads((await face.post(b"[%b]" % body)).body)
    assert answer["id"] == 4
    assert answer["error"]["message"].startswith("l2 answered HTTP 502")


async def test_a_batch_is_bounded(face: Face) -> None:
    body = b"[" + b",".join([m.forkchoice()] * (MAX_BATCH + 1)) + b"]"
    assert json.loads((await face.post(body)).body)["error"]["code"] == -32600
    assert face.machine.asked == []


async def test_the_answers_of_a_batch_are_bounded(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.engine.frontend.MAX_BATCH_RESPONSE", 50)
    answers = json.loads((await face.post(b"[" + b",".join([m.forkchoice()] * 4) + b"]")).body)
    assert ["result" in answer for answer in answers] == [True, True, False, False]
    assert answers[-1]["error"]["code"] == -32003


async def test_calls_are_counted_by_what_they_are(face: Face) -> None:
    for body in (m.forkchoice(), m.build(), m.get_payload(), m.new_payload(m.Block("b")), m.request("eth_x", [])):
        await face.post(body)
    await face.post(m.request("miner_setExtra", []))
    counts = {
        name: face.registry.get_sample_value("engine_requests_total", {"call": name})
        for name in ("forkchoice_updated", "get_payload", "new_payload", "other", "mirrored")
    }
    assert counts == {"forkchoice_updated": 2, "get_payload": 1, "new_payload": 1, "other": 1, "mirrored": 1}


def test_the_clock_of_these_tests_is_not_the_machines() -> None:
    assert abs(time.time() - NOW) > jwt.MAX_DRIFT_S
