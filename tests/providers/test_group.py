"""Calls over links that do what a test says, in virtual time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.domain.errors import UnavailableError
from appliance.providers.endpoint_health import Thresholds
from appliance.providers.group import Group, NobodyAnswered
from appliance.providers.heads import Header
from appliance.providers.links import Attempt, LinkEvents
from appliance.providers.metrics import ProviderMetrics
from appliance.providers.settings import EndpointSettings, GroupSettings
from appliance.providers.watchers import probe
from appliance.providers.websocket_rpc import NotSent
from appliance.wire.jsonrpc import Response
from tests.providers.chain import Chain, encoded

Behaviour = Callable[[Attempt, float], Awaitable[tuple[int, Response | None]]]


def result(value: object) -> tuple[int, Response]:
    return 200, Response(result=msgspec.Raw(encoded(value)))


def error(code: int, message: str) -> tuple[int, Response]:
    return 200, Response(error=msgspec.Raw(encoded({"code": code, "message": message})))


async def hangs(attempt: Attempt, timeout_s: float) -> tuple[int, Response | None]:
    attempt.sent = True
    with trio.move_on_after(timeout_s):
        await trio.sleep_forever()
    raise UnavailableError(f"no answer within {timeout_s * 1000:.0f} ms")


async def refuses(_attempt: Attempt, _timeout_s: float) -> tuple[int, Response | None]:
    raise NotSent("no connection: Connection refused")


async def breaks(attempt: Attempt, _timeout_s: float) -> tuple[int, Response | None]:
    attempt.sent = True
    raise UnavailableError("the connection broke at /v1/very-secret-key")


def answers(status_and_response: tuple[int, Response | None]) -> Behaviour:
    async def answer(attempt: Attempt, _timeout_s: float) -> tuple[int, Response | None]:
        attempt.sent = True
        return status_and_response

    return answer


@dataclass
class FakeLink:
    name: str
    behaviour: Behaviour
    origin: str = "http://host"
    pushes_heads: bool = False
    chain_id: str = "0x1"
    calls: list[str] = field(default_factory=list)

    async def call(self, attempt: Attempt, timeout_s: float) -> tuple[int, Response | None]:
        await trio.lowlevel.checkpoint()
        if attempt.method == "eth_chainId":
            return result(self.chain_id)
        self.calls.append(attempt.method)
        return await self.behaviour(attempt, timeout_s)

    async def run(self, events: LinkEvents) -> None:
        raise AssertionError("nobody runs it here")


def group_of(*behaviours: Behaviour) -> tuple[Group, list[FakeLink]]:
    links = [FakeLink(f"n{index}", each) for index, each in enumerate(behaviours)]
    endpoints = tuple(EndpointSettings(link.name, "http://host/v1/very-secret-key") for link in links)
    settings = GroupSettings("l1", endpoints, Thresholds(return_after_s=30), timeout_s=2, deadline_s=5)
    metrics = ProviderMetrics.create(CollectorRegistry())
    group = Group(settings, links, metrics, wall_clock=lambda: 1000.0)
    for link in links:
        group.said_chain(link.name, 1)
    return group, links


async def test_the_first_answer_is_the_answer(autojump_clock: MockClock) -> None:
    group, (first, second) = group_of(answers(result("a")), answers(result("b")))
    assert bytes((await group.call("eth_call", b"[]")).result) == b'"a"'
    assert (first.calls, second.calls) == (["eth_call"], [])


@pytest.mark.parametrize(
    "behaviour",
    [hangs, refuses, breaks, answers((502, None)), answers((401, None)), answers(error(-32603, "internal error"))],
    ids=["hangs", "refuses", "breaks", "502", "401", "internal error"],
)
async def test_a_read_goes_on_to_the_next(behaviour: Behaviour, autojump_clock: MockClock) -> None:
    group, _ = group_of(behaviour, answers(result("b")))
    assert bytes((await group.call("eth_call", b"[]")).result) == b'"b"'
    assert group.statistics()["endpoints"][0]["errors"] == 1  # type: ignore[index]


@pytest.mark.parametrize("behaviour", [hangs, breaks, answers((502, None))], ids=["hangs", "breaks", "502"])
async def test_a_write_that_may_have_been_carried_out_does_not(behaviour: Behaviour, autojump_clock: MockClock) -> None:
    group, (_, second) = group_of(behaviour, answers(result("b")))
    with pytest.raises(NobodyAnswered, match="may have been carried out, so it was not sent again: n0"):
        await group.call("eth_sendTransaction", b"[]")
    assert second.calls == []


async def test_a_write_that_never_left_does(autojump_clock: MockClock) -> None:
    group, _ = group_of(refuses, answers(result("b")))
    assert bytes((await group.call("eth_sendTransaction", b"[]")).result) == b'"b"'


async def test_the_deadline_holds_for_all_endpoints_together(autojump_clock: MockClock) -> None:
    group, links = group_of(hangs, hangs, hangs, hangs)
    began = trio.current_time()
    with pytest.raises(NobodyAnswered):
        await group.call("eth_call", b"[]")
    assert trio.current_time() - began == pytest.approx(5)
    assert [len(link.calls) for link in links] == [1, 1, 1, 0]


async def test_who_waits_for_an_endpoint_that_falls_silent_goes_elsewhere_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    group, (_, second) = group_of(hangs, answers(result("b")))
    found: list[float] = []

    async def ask() -> None:
        await group.call("eth_call", b"[]")
        found.append(trio.current_time())

    for _ in range(5):
        nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    began = trio.current_time()
    group.connection_refused("n0", "lost for good")
    await wait_all_tasks_blocked()
    assert found == [began] * 5
    assert second.calls == ["eth_call"] * 5


async def test_the_only_endpoint_is_waited_for_though_it_is_unwell(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def slow(attempt: Attempt, _timeout_s: float) -> tuple[int, Response | None]:
        attempt.sent = True
        await trio.sleep(1)
        return result("late")

    group, _ = group_of(slow)
    found: list[Response] = []

    async def ask() -> None:
        found.append(await group.call("eth_call", b"[]"))

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    group.refused("n0", "HTTP 401")
    await trio.sleep(2)
    assert bytes(found[0].result) == b'"late"'


async def test_all_unhealthy_names_each_and_hides_what_is_secret(autojump_clock: MockClock) -> None:
    group, _ = group_of(breaks, answers((403, None)))
    with pytest.raises(NobodyAnswered) as caught:
        await group.call("eth_call", b"[]")
    assert str(caught.value) == "all providers of l1 unhealthy: n0 (the connection broke at ***), n1 (HTTP 403)"
    assert "very-secret" not in str(group.statistics())


async def test_a_transaction_that_was_taken_is_watched(autojump_clock: MockClock) -> None:
    group, _ = group_of(answers(result("0x1")))
    await group.call("eth_sendRawTransaction", b'["0x02"]')
    await group.call("eth_call", b"[]")
    assert [each.hash for each in group.watch.due(0, 10)] == ["0x1"]


async def test_our_own_calls_take_neither_errors_nor_null(autojump_clock: MockClock) -> None:
    for said in (result(None), error(3, "execution reverted")):
        group, _ = group_of(answers(said))
        with pytest.raises(UnavailableError, match="no result"):
            await group.ask("eth_getBlockByHash", b"[]")


async def test_probes_find_who_is_back_and_a_switch_is_told(autojump_clock: MockClock) -> None:
    block = Chain().mine()
    group, (first, _) = group_of(refuses, answers(result(block.block())))
    switches: list[str | None] = []
    heads: list[Header] = []
    group.on_switch = lambda: switches.append(group.active)
    group.on_head = heads.append
    for name in ("n0", "n0", "n0", "n1"):
        await probe(group, name)
    assert switches == ["n1"]
    assert [head.hash for head in heads] == [block.hash]
    first.behaviour = answers(result(block.block()))
    await probe(group, "n0")
    await trio.sleep(30)
    await probe(group, "n0")
    assert switches == ["n1", "n0"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (answers((500, None)), "HTTP 500"),
        (answers(result(None)), "eth_getBlockByNumber: not a block header"),
        (answers((401, None)), "HTTP 401"),
    ],
)
async def test_a_probe_that_is_not_answered_says_why(said: Behaviour, why: str, autojump_clock: MockClock) -> None:
    group, _ = group_of(said)
    await probe(group, "n0")
    assert str(group.statistics()["endpoints"][0]["last_error"]).startswith(why)  # type: ignore[index]
