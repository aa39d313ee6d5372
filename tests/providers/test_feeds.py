"""Heads and logs for subscribers, with an endpoint that is a function, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.domain.errors import UnavailableError
from appliance.providers.head_feed import HeadFeed
from appliance.providers.heads import Extended, Header
from appliance.providers.log_feed import LogFeed
from appliance.providers.subscriptions import Logs
from tests.providers.chain import Block, Chain, encoded

SUBJECT = Logs(b',"address":"0xaa"')


def header(block: Block) -> Header:
    return Header.decode(encoded(block.header()))


@dataclass
class Follower:
    """Writes down what it is told."""

    heads: list[int] = field(default_factory=list)
    entries: list[tuple[str, bool]] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)
    logs_lost: int = 0

    __hash__ = object.__hash__

    def extended(self, step: Extended) -> None:
        self.heads += [each.number for each in step.added]

    def lost(self, missed: int) -> None:
        self.missed.append(missed)

    def logs(self, subject: Logs, entries: list[bytes]) -> None:
        assert subject == SUBJECT
        decoded = [msgspec.json.decode(entry) for entry in entries]
        self.entries += [(entry["data"], entry["removed"]) for entry in decoded]

    def lost_logs(self, subject: Logs) -> None:
        self.logs_lost += 1


@dataclass
class World:
    chain: Chain = field(default_factory=Chain)
    follower: Follower = field(default_factory=Follower)
    asked: list[str] = field(default_factory=list)
    down: bool = False
    filled_in: int = 0

    def __post_init__(self) -> None:
        self.chain.mine_many(3)
        self.heads = HeadFeed(self.ask, 8, self._count)

    def _count(self, count: int) -> None:
        self.filled_in += count

    async def ask(self, method: str, params: bytes) -> msgspec.Raw:
        await trio.lowlevel.checkpoint()
        self.asked.append(method)
        if self.down:
            raise UnavailableError("down")
        first = msgspec.json.decode(params)[0]
        match method:
            case "eth_getBlockByNumber":
                return msgspec.Raw(encoded(self.chain.head.block()))
            case "eth_getBlockByHash":
                return msgspec.Raw(encoded(self.chain.known[first].block()))
        assert first["address"] == "0xaa"
        return msgspec.Raw(encoded(self.chain.known[first["blockHash"]].log_entries()))

    async def offer(self, *blocks: Block) -> None:
        for block in blocks:
            self.heads.offer(header(block))
        await wait_all_tasks_blocked()


@pytest.fixture
async def world(nursery: trio.Nursery) -> World:
    made = World()
    nursery.start_soon(made.heads.run)
    return made


async def test_a_listener_gets_what_follows_the_newest_block(world: World, autojump_clock: MockClock) -> None:
    await world.heads.join(world.follower)
    await world.offer(world.chain.head)
    await world.offer(*world.chain.mine_many(2))
    assert world.follower.heads == [4, 5]
    assert world.filled_in == 0


async def test_without_listeners_nothing_is_asked_for(world: World, autojump_clock: MockClock) -> None:
    assert not world.heads.wanted
    await world.offer(world.chain.mine_many(3)[-1])
    assert world.asked == []


async def test_missing_heads_are_filled_in_and_counted(world: World, autojump_clock: MockClock) -> None:
    await world.heads.join(world.follower)
    await world.offer(world.chain.mine_many(4)[-1])
    assert world.follower.heads == [4, 5, 6, 7]
    assert world.filled_in == 3


async def test_a_head_whose_ancestors_cannot_be_had_yet_is_tried_again(world: World, autojump_clock: MockClock) -> None:
    await world.heads.join(world.follower)
    world.down = True
    await world.offer(world.chain.mine_many(2)[-1])
    assert world.follower.heads == []
    world.down = False
    await trio.sleep(1)
    assert world.follower.heads == [4, 5]


async def test_a_newer_head_takes_the_place_of_one_that_cannot_be_attached(
    world: World, autojump_clock: MockClock
) -> None:
    await world.heads.join(world.follower)
    world.down = True
    await world.offer(world.chain.mine_many(2)[-1])
    world.down = False
    world.heads.offer(header(world.chain.mine()))
    await trio.sleep(1)
    assert world.follower.heads == [4, 5, 6]


async def test_joining_while_nobody_answers_is_an_error(world: World, autojump_clock: MockClock) -> None:
    world.down = True
    with pytest.raises(UnavailableError, match="down"):
        await world.heads.join(world.follower)
    assert not world.heads.wanted


async def test_a_gap_over_the_bound_is_told_and_what_follows_goes_on(world: World, autojump_clock: MockClock) -> None:
    await world.heads.join(world.follower)
    await world.offer(world.chain.mine_many(20)[-1])
    assert (world.follower.heads, world.follower.missed) == ([], [19])
    await world.offer(world.chain.mine())
    assert world.follower.heads == [24]


async def test_who_left_hears_nothing_more(world: World, autojump_clock: MockClock) -> None:
    await world.heads.join(world.follower)
    world.heads.leave(world.follower)
    world.heads.leave(world.follower)
    await world.offer(world.chain.mine())
    assert world.follower.heads == []


@asynccontextmanager
async def log_feed(world: World, nursery: trio.Nursery) -> AsyncIterator[LogFeed]:
    feed = LogFeed(SUBJECT, world.ask, 8)
    feed.listeners[world.follower] = None
    await world.heads.join(feed)
    nursery.start_soon(feed.run)
    yield feed
    feed.scope.cancel()


async def test_logs_follow_the_heads_block_by_block(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with log_feed(world, nursery):
        world.chain.mine("0x1", "0x2")
        world.chain.mine()
        await world.offer(world.chain.mine("0x3"))
        assert world.follower.entries == [("0x1", False), ("0x2", False), ("0x3", False)]


async def test_logs_of_removed_blocks_are_taken_back_the_newest_first(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with log_feed(world, nursery):
        await world.offer(world.chain.mine("0x1", "0x2"), world.chain.mine("0x3"))
        world.follower.entries.clear()
        await world.offer(world.chain.reorg(2, 3)[-1])
        assert world.follower.entries == [("0x3", True), ("0x2", True), ("0x1", True)]


async def test_logs_that_cannot_be_had_yet_are_asked_for_again(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with log_feed(world, nursery):
        world.down = True
        await world.offer(world.chain.mine("0x1"))
        world.down = False
        await trio.sleep(1)
        assert world.follower.entries == [("0x1", False)]


async def test_logs_of_a_block_that_is_gone_meanwhile_are_not_waited_for(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with log_feed(world, nursery) as feed:
        world.down = True
        old = world.chain.mine("0x1")
        await world.offer(old)
        new = [header(block) for block in world.chain.reorg(1, 1)]
        feed.extended(Extended(tuple(new), (header(old),)))
        await trio.sleep(0.6)
        world.down = False
        await trio.sleep(1)
        assert world.follower.entries == []
        assert world.follower.logs_lost == 0


async def test_logs_that_nobody_has_are_told_to_be_lost(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with log_feed(world, nursery):
        world.down = True
        await world.offer(world.chain.mine("0x1"))
        await trio.sleep(20)
        assert world.follower.logs_lost == 1


async def test_too_many_blocks_in_waiting_are_told_to_be_lost(
    world: World, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with log_feed(world, nursery) as feed:
        world.down = True
        for _ in range(300):
            feed.extended(Extended((header(world.chain.mine()),)))
        assert world.follower.logs_lost >= 1
