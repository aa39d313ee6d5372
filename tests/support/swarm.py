"""Subscribers that never give up: they resume on another host from the last flashblock that they have seen."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from appliance.net.errors import BadResponse, ConnectFailed, ConnectionBroken, WebsocketRefused
from appliance.net.websocket_client import Inbox, messages

RETRY_S = 0.1


class _Metadata(msgspec.Struct):
    block_number: int


class _Head(msgspec.Struct):
    payload_id: str
    index: int
    metadata: _Metadata


@dataclass(frozen=True, slots=True)
class Seen:
    """One flashblock as a subscriber got it."""

    payload_id: str
    index: int
    block_number: int
    digest: int


class Swarm:
    """``hosts`` are the addresses of fan-outs; a number per subscriber says where it begins and how it resumes."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = list(hosts)
        self.subscribers: list[Subscriber] = []
        self._decoded: dict[bytes, Seen] = {}  # the same few bytes come to all of them

    def add(self, count: int, nursery: trio.Nursery) -> None:
        """Start more of them."""
        for _ in range(count):
            subscriber = Subscriber(self, len(self.subscribers))
            self.subscribers.append(subscriber)
            nursery.start_soon(subscriber.run)

    def decode(self, body: bytes) -> Seen:
        """What a message is."""
        found = self._decoded.get(body)
        if found is None:
            head = msgspec.json.decode(body, type=_Head)
            found = Seen(head.payload_id, head.index, head.metadata.block_number, hash(body))
            self._decoded[body] = found
            while len(self._decoded) > 1000:
                del self._decoded[next(iter(self._decoded))]
        return found

    def scatter(self, count: int, moments: random.Random) -> None:
        """Let some of them leave their hosts, without a word, and resume on others."""
        for subscriber in moments.sample(self.subscribers, count):
            subscriber.leave()

    @property
    def resumed(self) -> int:
        """How often a connection was opened again."""
        return sum(subscriber.connections - 1 for subscriber in self.subscribers)


@dataclass
class Subscriber:
    """One of them; ``seen`` has everything, in the order in which it came."""

    swarm: Swarm
    number: int
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    refusals: list[str] = field(default_factory=list)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def host(self) -> str:
        """Where it connects next: another one each time."""
        return self.swarm.hosts[(self.number + self.connections + len(self.refusals)) % len(self.swarm.hosts)]

    def query(self) -> str:
        """Strictly after the last one; even numbers resume by payload, odd ones by block."""
        if not self.seen:
            return ""
        last = self.seen[-1]
        place = f"?block_number={last.block_number}&flashblock_index={last.index}"
        return place if self.number % 2 else f"{place}&payload_id={last.payload_id}"

    def leave(self) -> None:
        """End the connection."""
        self._scope.cancel()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                with trio.CancelScope() as self._scope:
                    await self._follow()
            except WebsocketRefused as error:
                self.refusals.append(str(error))
            except ConnectFailed:
                self.refusals.append("")
            except (ConnectionBroken, BadResponse):
                pass
            await trio.sleep(RETRY_S)

    async def _follow(self) -> None:
        url = f"ws://{self.host}/ws{self.query()}"
        async with messages(
            url, ping_interval_s=1.0, pong_timeout_s=1.0, connect_timeout_s=2.0, max_message_bytes=2**24
        ) as inbox:
            self.connections += 1
            await self._read(inbox)

    async def _read(self, inbox: Inbox) -> None:
        async for body, _ in inbox:
            self.seen.append(self.swarm.decode(body))
