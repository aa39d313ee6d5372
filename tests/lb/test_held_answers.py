"""Answers that wait for slow clients: the account, and the load balancer when it is full."""

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from appliance.lb.held_answers import HeldAnswers
from appliance.net.body_budget import UNCOUNTED_BYTES
from appliance.net.http import Headers, HttpResponse
from tests.lb.test_failures import replaced
from tests.lb.world import CALL, FakeNode, World, answers, world
from tests.support.eventually import eventually

MIB = 1024 * 1024
LARGE = 8 * MIB  # more than two kernels' buffers take
NO_HEADERS = Headers()


def test_small_answers_are_not_counted() -> None:
    held = HeldAnswers(1)
    assert held.response(200, bytes(UNCOUNTED_BYTES), NO_HEADERS) == HttpResponse(200, bytes(UNCOUNTED_BYTES))
    assert (held.taken, held.full) == (0, False)
    assert (held.has_room(UNCOUNTED_BYTES), held.has_room(UNCOUNTED_BYTES + 2)) == (True, False)
    with pytest.raises(ValueError, match="no room"):
        held.response(200, bytes(UNCOUNTED_BYTES + 2), NO_HEADERS)


def test_an_answer_is_held_until_it_was_sent_and_given_back_once() -> None:
    held = HeldAnswers(1000)
    first = held.response(200, bytes(UNCOUNTED_BYTES + 1000), NO_HEADERS)
    assert (held.taken, held.full, repr(held)) == (1000, True, "<HeldAnswers 1000 of 1000 bytes>")
    assert not held.has_room(UNCOUNTED_BYTES + 1)
    for _ in range(2):
        first.sent()
        assert (held.taken, held.full) == (0, False)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3 * UNCOUNTED_BYTES))))
def test_the_bound_holds_and_nothing_is_lost(events: list[tuple[bool, int]]) -> None:
    held = HeldAnswers(4 * UNCOUNTED_BYTES)
    waiting: list[HttpResponse] = []
    for sent, size in events:
        if sent and waiting:
            waiting.pop().sent()
        elif held.has_room(size):
            waiting.append(held.response(200, bytes(size), NO_HEADERS))
        assert held.taken == sum(max(len(each.body) - UNCOUNTED_BYTES, 0) for each in waiting) <= 4 * UNCOUNTED_BYTES
    for each in waiting:
        each.sent()
    assert held.taken == 0


async def _ask_and_read_nothing(w: World) -> trio.SocketStream:
    host, _, port = w.address.partition(":")
    client = await trio.open_tcp_stream(host, int(port))
    await client.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(CALL), CALL))
    return client


async def test_clients_that_read_nothing_hold_no_more_than_the_bound_and_others_are_told() -> None:
    node = FakeNode(answers(200, bytes(LARGE)))
    async with world(node, settings=replaced(max_held_bytes=2 * LARGE)) as w:
        slow = [await _ask_and_read_nothing(w) for _ in range(2)]
        await eventually(lambda: w.metric("lb_held_bytes") == 2 * (LARGE - UNCOUNTED_BYTES))
        given_up = await w.call()
        assert (given_up.status, given_up.headers["retry-after"]) == (503, "1")
        assert given_up.body == b"too many answers wait for slow clients\n"
        assert w.metric("lb_refused_total", reason="held_full") == 1
        node.behaviour = answers(200, b"small")
        assert (await w.call()).body == b"small"
        for client in slow:
            await client.aclose()
        await eventually(lambda: w.metric("lb_held_bytes") == 0)
        node.behaviour = answers(200, bytes(LARGE))
        assert len((await w.call()).body) == LARGE
        assert w.lb.statistics()["held_bytes"] == 0


async def test_while_it_is_full_no_node_is_asked() -> None:
    node = FakeNode(answers(200, bytes(LARGE)))
    async with world(node, settings=replaced(max_held_bytes=LARGE - UNCOUNTED_BYTES)) as w:
        slow = await _ask_and_read_nothing(w)
        await eventually(lambda: w.metric("lb_held_bytes") > 0)
        assert (await w.call()).status == 503
        assert len(node.requests) == 1
        status = msgspec.json.encode(w.lb.statistics())
        assert b'"held_bytes":%d' % (LARGE - UNCOUNTED_BYTES) in status
        await slow.aclose()
        await eventually(lambda: w.metric("lb_held_bytes") == 0)
        assert (await w.call()).status == 200
