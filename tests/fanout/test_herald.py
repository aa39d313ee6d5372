"""From a payload's state in the log to the subscribers that want to hear of it: a real log, real sockets."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import trio

from appliance.domain.errors import LogError
from appliance.domain.payloads import PayloadId, PayloadState
from appliance.fanout.broadcast import Broadcast
from appliance.fanout.herald import WAITING, Herald
from appliance.fanout.ports import PayloadFacts
from appliance.fanout.turns import Turns
from appliance.flashlog import FlashLog, open_flashlog
from tests.fanout.fakes import payload_id
from tests.fanout.serving import RawClient, Serving, serving
from tests.fanout.support import Stand
from tests.fanout.test_broadcast import inline
from tests.flashlog.support import flashblock
from tests.flashlog.support import payload_id as logged_id

HASH = "0x" + "ab" * 32


async def end(log: FlashLog, number: int, state: PayloadState) -> None:
    await log.set_state(logged_id(number), PayloadState.SEALED)
    await log.set_state(logged_id(number), state, HASH if state is PayloadState.LANDED else None)


async def fill(log: FlashLog, number: int, flashblocks: int = 3) -> None:
    for index in range(flashblocks):
        await log.append(flashblock(number, index), "a")


async def subscribe(server: Serving, target: str) -> RawClient:
    client = await server.client()
    assert (await client.request(target))[0] == 101
    return client


async def read(client: RawClient, count: int) -> list[Any]:
    """The first messages: a control message as it is, a flashblock as its payload id and index."""
    found = [json.loads(frame.payload) for frame in await client.frames(count)]
    return [item if "control" in item else (item["payload_id"], item["index"]) for item in found]


async def test_the_fate_of_a_payload_comes_behind_its_flashblocks_and_only_to_those_who_asked(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path) as log, serving(log, states=log) as server:
        asks, does_not = await subscribe(server, "/ws?control=1"), await subscribe(server, "/ws")
        await server.until("subscribers", 2)
        await fill(log, 1)
        await end(log, 1, PayloadState.LANDED)
        await asks.frames(5)  # it comes behind the payload's own flashblocks, and maybe behind some of the next
        await fill(log, 2, 1)
        await end(log, 2, PayloadState.DROPPED)
        one, two = logged_id(1), logged_id(2)
        record = await log.payload(one)
        assert record is not None
        assert await read(asks, 7) == [
            {
                "control": "resumed-from",
                "payload_id": None,
                "block_number": None,
                "flashblock_index": None,
                "behind": 0,
            },
            (one, 0),
            (one, 1),
            (one, 2),
            {"control": "landed", "payload_id": one, "block_number": record.block_number, "block_hash": HASH},
            (two, 0),
            {"control": "dropped", "payload_id": two, "block_number": record.block_number + 1},
        ]
        assert await read(does_not, 4) == [(one, 0), (one, 1), (one, 2), (two, 0)]


async def test_who_resumes_is_told_what_happened_meanwhile_in_its_place(tmp_path: Path) -> None:
    async with open_flashlog(tmp_path) as log, serving(log, states=log) as server:
        first = await subscribe(server, "/ws?control=1")
        for number in (1, 2):
            await fill(log, number)
            await end(log, number, PayloadState.LANDED)
            await first.frames(1 + 4 * number)
        back = await subscribe(server, f"/ws?control=1&payload_id={logged_id(1)}&flashblock_index=2")
        found = await read(back, 6)
        assert (found[0]["control"], found[0]["payload_id"], found[0]["behind"]) == ("resumed-from", logged_id(1), 3)
        assert [
            item["control"] + item["payload_id"][-1] if isinstance(item, dict) else item[1] for item in found[1:]
        ] == [
            "landed1",
            0,
            1,
            2,
            "landed2",
        ]


async def test_a_control_parameter_is_0_or_1() -> None:
    async with serving(Stand().log) as server:
        client = await server.client()
        status, _, body = await client.request("/ws?control=yes")
        assert (status, json.loads(body)) == (400, {"message": "control must be 0 or 1"})
        other = await server.client()
        assert (await other.request("/ws?control=0"))[0] == 101
        await server.until("subscribers", 1)
        assert server.metrics.active_connections.value == 1


@dataclass
class Source:
    """A log whose payloads change as the test says."""

    appended: int = 0
    broken: bool = False
    watchers: list[Any] = field(default_factory=list)

    @contextmanager
    def watch_states(self, on_state: object, /) -> Iterator[None]:
        self.watchers.append(on_state)
        try:
            yield
        finally:
            self.watchers.remove(on_state)

    async def payload(self, payload_id: PayloadId, /) -> PayloadFacts | None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise LogError("disk on fire")
        return None

    def change(self, number: int, state: PayloadState = PayloadState.LANDED) -> None:
        for on_state in self.watchers:
            on_state(payload_id(number), state, None)


class Heralded:
    """A stand with its broadcast and its herald."""

    def __init__(self) -> None:
        self.stand, self.source = Stand(), Source()
        self.broadcast = Broadcast(self.stand.hub, self.stand.log, self.stand.cache, Turns(), inline)
        self.herald = Herald(self.stand.hub, self.broadcast, self.source, perf_counter)

    async def start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.broadcast.run)
        await nursery.start(self.herald.run)


async def test_what_happened_before_the_broadcast_has_come_so_far_is_told_behind_it(nursery: trio.Nursery) -> None:
    heralded = Heralded()
    subscriber = heralded.stand.connect(control=True)
    await heralded.start(nursery)
    await trio.testing.wait_all_tasks_blocked()
    heralded.source.appended = 2
    heralded.source.change(1)
    await trio.testing.wait_all_tasks_blocked()
    assert len(subscriber.told) == 1
    heralded.stand.log.append(1, 0)
    heralded.stand.log.append(1, 1)
    await trio.testing.wait_all_tasks_blocked()
    assert [notice["control"] for notice in subscriber.told] == ["resumed-from", "landed"]
    assert len(subscriber.received) == 2
    nursery.cancel_scope.cancel()


async def test_a_log_that_cannot_be_read_costs_the_block_number_only(nursery: trio.Nursery) -> None:
    heralded = Heralded()
    subscriber = heralded.stand.connect(control=True)
    await heralded.start(nursery)
    heralded.source.broken = True
    heralded.source.change(1, PayloadState.DROPPED)
    heralded.source.change(1, PayloadState.SEALED)
    await trio.testing.wait_all_tasks_blocked()
    assert subscriber.told[1:] == [{"control": "dropped", "payload_id": payload_id(1), "block_number": None}]
    nursery.cancel_scope.cancel()


async def test_a_flood_of_changes_is_bounded_and_a_herald_that_ends_hears_no_more() -> None:
    heralded = Heralded()
    async with trio.open_nursery() as nursery:
        await heralded.start(nursery)
        for number in range(3 * WAITING):
            heralded.source.change(number)
        assert len(heralded.herald._changes) == WAITING
        await trio.testing.wait_all_tasks_blocked()
        assert heralded.stand.hub.board.newest == WAITING
        nursery.cancel_scope.cancel()
    assert heralded.source.watchers == []
