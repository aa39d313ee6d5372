"""Requests that the door answers itself, and places that it gives back. The rest is in test_service.py."""

import json
import socket
from collections.abc import Callable
from functools import partial

import pytest
import trio
from prometheus_client import CollectorRegistry

from appliance.fanout.api_keys import ApiKeys
from appliance.fanout.door import MAX_BLOCKS_AHEAD, Admitted, Door
from appliance.fanout.filters import Filter, FilterIndex
from appliance.fanout.gate import Gate
from appliance.fanout.limits import UNCLAIMED_TIMEOUT_S, Admission, ClientAddress
from appliance.fanout.metrics import FanoutMetrics
from appliance.net.http import Headers, HttpRequest, HttpResponse
from appliance.net.http_server import HandOver
from tests.fanout.fakes import MemoryLog, payload_id
from tests.fanout.serving import KEY

HANDSHAKE = {
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": KEY,
}


class House:
    """A door with two places behind it."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.stopping = trio.Event()
        self.filters = FilterIndex()
        self.admission = Admission(max_subscribers=2, max_per_address=2)
        self.metrics = FanoutMetrics.create(CollectorRegistry())
        gate = Gate(ApiKeys(), self.admission, ClientAddress([], "X-Forwarded-For"), self.metrics)
        self.door = Door(self.log, gate, self.stopping, _welcome, self.filters)

    async def ask(
        self, target: str = "/ws", method: str = "GET", *, upgrade: bool = True, peer: str = "1.2.3.4"
    ) -> HttpResponse | HandOver:
        headers = Headers(HANDSHAKE if upgrade else {})
        return await self.door.handle(HttpRequest(method, target, headers, peer=peer, upgrade=upgrade))

    def ask_at_once(self, target: str = "/ws", *, upgrade: bool = True) -> HandOver | None:
        headers = Headers(HANDSHAKE if upgrade else {})
        return self.door.handle_at_once(HttpRequest("GET", target, headers, peer="1.2.3.4", upgrade=upgrade))

    async def refused(self, target: str = "/ws", method: str = "GET", *, upgrade: bool = True) -> tuple[int, str]:
        answer = await self.ask(target, method, upgrade=upgrade)
        assert isinstance(answer, HttpResponse)
        return answer.status, json.loads(answer.body)["message"]


def _welcome(admitted: Admitted, sock: socket.socket, data: bytes, ended: Callable[[], None]) -> None:
    raise AssertionError("nobody comes in")


async def test_a_good_request_is_upgraded_and_holds_a_place() -> None:
    house = House()
    answer = await house.ask()
    assert isinstance(answer, HandOver)
    assert Headers(answer.headers)["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert house.admission.taken == 1


async def test_a_place_that_is_never_taken_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    house = House()
    await house.ask()
    await house.ask()
    assert (await house.refused())[0] == 429
    await trio.sleep(UNCLAIMED_TIMEOUT_S)
    assert isinstance(await house.ask(), HandOver)


async def test_health_says_when_the_end_comes() -> None:
    house = House()
    assert await house.ask("/healthz", upgrade=False) == HttpResponse(200, b"ok\n")
    house.stopping.set()
    assert await house.refused("/healthz", upgrade=False) == (503, "stopping")
    assert await house.refused() == (503, "this host is going away")
    answer = await house.ask()
    assert isinstance(answer, HttpResponse)
    assert Headers(answer.headers)["retry-after"] == "5"


async def test_a_websocket_begins_with_get() -> None:
    answer = await House().ask(method="POST", upgrade=False)
    assert isinstance(answer, HttpResponse)
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


async def test_a_browser_is_told_that_this_is_a_websocket() -> None:
    house = House()
    status, message = await house.refused(upgrade=False)
    assert status == 426
    assert "ws://" in message


@pytest.mark.parametrize("target", ["/nothing", "/ws/key", "//", "/WS", "*"])
async def test_other_paths_do_not_exist(target: str) -> None:
    assert (await House().refused(target))[0] == 404


async def test_a_refused_position_holds_no_place() -> None:
    house = House()
    house.log.append(5, 0)
    house.log.append(6, 0)
    house.log.prune(1)
    assert (await house.refused("/ws?block_number=4"))[0] == 410
    assert (await house.refused("/ws?block_number=x"))[0] == 400
    assert house.admission.taken == 0


async def test_a_place_far_beyond_the_head_is_refused_with_the_newest_block() -> None:
    house = House()
    assert isinstance(await house.ask("/ws?block_number=99999999"), HandOver)  # an empty log cannot tell
    house.log.append(5, 0)
    status, message = await house.refused(f"/ws?block_number={6 + MAX_BLOCKS_AHEAD}&flashblock_index=1")
    assert (status, message) == (400, "block_number is far beyond the newest block here, 5")
    assert house.admission.taken == 1
    assert isinstance(await house.ask(f"/ws?block_number={5 + MAX_BLOCKS_AHEAD}"), HandOver)


async def test_a_position_in_an_empty_log_that_is_gone_names_no_oldest() -> None:
    answer = await House().ask("/ws?payload_id=0x0000000000000001")
    assert isinstance(answer, HttpResponse)
    assert json.loads(answer.body)["oldest"] is None


async def test_a_lookup_that_is_cancelled_gives_its_place_back() -> None:
    house = House()
    with trio.CancelScope() as scope:
        scope.cancel()
        await house.ask()
    assert house.admission.taken == 0


async def test_filters_have_room_in_all_and_an_equal_one_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.fanout.filters.MAX_ITEMS_IN_ALL", 2)
    house = House()
    house.filters.add(Filter([bytes(20), b"\1" * 20]))
    assert await house.refused("/ws?addresses=0x" + "02" * 20) == (429, "this host has no room for another filter")
    assert house.admission.taken == 0
    assert isinstance(await house.ask(f"/ws?addresses=0x{'00' * 20},0x{'01' * 20}"), HandOver)


async def test_one_address_may_not_take_the_room_of_all_and_gets_its_own_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.fanout.filters.MAX_ITEMS_PER_ADDRESS", 2)
    house = House()
    two = f"/ws?addresses=0x{'00' * 20},0x{'01' * 20}"
    first = await house.ask(two)
    assert isinstance(first, HandOver)
    status, message = await house.refused("/ws?addresses=0x" + "02" * 20)
    assert (status, message) == (429, "too many addresses and topics in the filters of this address")
    assert house.admission.taken == 1
    assert house.metrics.rate_limited_requests.value == 1
    assert isinstance(await house.ask("/ws?addresses=0x" + "02" * 20, peer="1.2.3.5"), HandOver)
    house.admission.expire(trio.current_time() + UNCLAIMED_TIMEOUT_S)
    assert isinstance(await house.ask("/ws?addresses=0x" + "02" * 20), HandOver)


async def test_a_filter_takes_no_share_when_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.fanout.filters.MAX_ITEMS_PER_ADDRESS", 1)
    house = House()
    wanted = "/ws?addresses=0x" + "02" * 20
    for _ in range(2):
        assert isinstance(await house.ask(wanted), HandOver)
    assert await house.refused(wanted) == (429, "too many subscribers from this address")
    house.admission.expire(trio.current_time() + UNCLAIMED_TIMEOUT_S)
    assert isinstance(await house.ask("/ws?addresses=0x" + "03" * 20), HandOver)


@pytest.mark.parametrize("name", ["addresses", "topics", "match", "block_number", "flashblock_index"])
async def test_a_parameter_that_is_given_twice_is_refused_by_name(name: str) -> None:
    status, message = await House().refused(f"/ws?{name}=1&other=2&{name}=1")
    assert (status, message.partition(" ")[0]) == (400, name)


@pytest.mark.parametrize("query", ["addresses=a&addresses=b&x", "addresses=a&addresses", "control=1&control=0&&"])
async def test_empty_parts_hide_no_parameter_that_is_given_twice(query: str) -> None:
    """Only one half of the addresses would be served, and nobody told of the other."""
    status, message = await House().refused(f"/ws?{query}")
    assert (status, message.partition(" ")[0]) == (400, query.partition("=")[0])


async def test_a_parameter_that_is_not_ours_may_come_as_often_as_it_likes() -> None:
    assert isinstance(await House().ask("/ws?a=1&a=2"), HandOver)


async def test_a_place_that_is_known_needs_no_wait() -> None:
    house = House()
    house.log.append(1, 0)
    target = f"/ws?payload_id={payload_id(1)}&flashblock_index=0"
    assert house.ask_at_once(target) is None
    assert house.admission.taken == 0
    assert isinstance(await house.ask(target), HandOver)
    answer = house.ask_at_once(target)
    assert isinstance(answer, HandOver)
    assert Headers(answer.headers)["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert house.admission.taken == 2
    assert house.log.lookups == 1
    house.admission.change(9, 9)
    house.log.append(1, 1)
    assert isinstance(house.ask_at_once(target), HandOver)
    assert house.ask_at_once("/ws") is None
    assert isinstance(await house.ask("/ws"), HandOver)
    assert isinstance(house.ask_at_once("/ws"), HandOver)


async def test_what_is_answered_at_once_is_what_a_wait_would_have_given(autojump_clock: trio.testing.MockClock) -> None:
    house = House()
    house.log.append(1, 0)
    for target in ("/ws", "/", "/ws/filter", "/ws?block_number=1", "/ws?encoding=brotli", "/ws?control=1"):
        slow = await house.ask(target)
        quick = house.ask_at_once(target)
        assert isinstance(slow, HandOver)
        assert isinstance(quick, HandOver)
        assert quick.headers == slow.headers
        assert _admitted(quick).request == _admitted(slow).request
        assert _admitted(quick).located == _admitted(slow).located
        await trio.sleep(UNCLAIMED_TIMEOUT_S)


def _admitted(answer: HandOver) -> Admitted:
    assert isinstance(answer.take, partial)
    admitted = answer.take.args[0]
    assert isinstance(admitted, Admitted)
    return admitted


async def test_a_refusal_is_never_given_at_once_and_counts_once() -> None:
    house = House()
    await house.ask()
    await house.ask()
    for target in ("/ws", "/nowhere", "/ws/a-key", "/ws?control=2", "/healthz"):
        assert house.ask_at_once(target) is None
    assert house.ask_at_once(upgrade=False) is None
    assert house.metrics.rate_limited_requests.value == 0
    assert house.metrics.unauthorized_requests.value == 0
    assert (await house.refused())[0] == 429
    assert house.metrics.rate_limited_requests.value == 1
    house.admission.change(9, 9)
    house.stopping.set()
    assert house.ask_at_once() is None
    assert house.admission.taken == 2
