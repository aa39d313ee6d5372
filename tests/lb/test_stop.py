"""A load balancer that stops under load: whatever a client had said before is answered, and by a node."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from appliance.lb.node import NodeSettings
from appliance.lb.node_health import HealthRules
from appliance.lb.relay import RelayRules
from appliance.net.http import HttpRequest, HttpResponse
from tests.lb.test_failures import replaced
from tests.lb.world import CALL, COOL, Behaviour, FakeNode, World, world
from tests.support.eventually import eventually

LARGE = bytes(300_000)


@dataclass
class Crowd:
    """Clients in a closed loop, each on its own connection, which note what became of each request."""

    w: World
    chance: random.Random
    body: bytes = CALL
    pieces: bool = False
    answered: int = 0
    wrong: list[str] = field(default_factory=list)

    async def client(self) -> None:
        host, port = self.w.address.split(":")
        while not self.w.stopping.is_set():
            try:
                connection = await trio.open_tcp_stream(host, int(port))
            except OSError:
                return
            async with connection:
                with trio.fail_after(120):
                    while await self._ask(connection):
                        pass

    async def _ask(self, connection: trio.SocketStream) -> bool:
        """Whether another one may follow."""
        data = b"POST / HTTP/1.1\r\nHost: lb\r\nContent-Length: %d\r\n\r\n" % len(self.body) + self.body
        asked_before = not self.w.stopping.is_set()
        try:
            await self._send(connection, data)
            answer = await _whole(connection)
        except (trio.BrokenResourceError, EOFError) as error:
            if asked_before:
                self.wrong.append(repr(error))
            return False
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.wrong.append(answer[:300].decode("latin-1"))
        self.answered += 1
        return b"connection: close" not in answer.partition(b"\r\n\r\n")[0]

    async def _send(self, connection: trio.SocketStream, data: bytes) -> None:
        if not self.pieces:
            await connection.send_all(data)
            return
        place = self.chance.randrange(1, len(data))
        await connection.send_all(data[:place])
        await trio.sleep(self.chance.random() * 0.005)
        await connection.send_all(data[place:])


async def _whole(connection: trio.SocketStream) -> bytes:
    data = b""
    while True:
        more = await connection.receive_some(65536)
        if not more:
            raise EOFError(f"closed after {len(data)} bytes of an answer")
        data += more
        head, end, body = data.partition(b"\r\n\r\n")
        if end and len(body) == int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
            return data


def takes(chance: random.Random, seconds: float, body: bytes) -> Behaviour:
    async def behave(_: HttpRequest) -> HttpResponse:
        await trio.sleep(chance.random() * seconds)
        return HttpResponse(200, body)

    return behave


def fails(chance: random.Random) -> Behaviour:
    """Requests are tried again, and the node goes out."""

    async def behave(_: HttpRequest) -> HttpResponse:
        await trio.sleep(chance.random() * 0.003)
        return HttpResponse(503)

    return behave


RULES = RelayRules(tries=3, queue_timeout_s=20.0, handover_timeout_s=20.0, proxy_timeout_s=20.0)
SOME_WORKERS = NodeSettings(default_workers=4, health=HealthRules(check_interval_s=600.0))
ONE_WORKER = NodeSettings(default_workers=1, health=HealthRules(check_interval_s=600.0))


async def stop_under_load(
    seed: int,
    *,
    clients: int = 24,
    pieces: bool = False,
    body: bytes = CALL,
    nodes: NodeSettings = SOME_WORKERS,
    bad: bool = False,
) -> Crowd:
    chance = random.Random(seed)
    behaviours = [takes(chance, 0.003, LARGE if body is LARGE else COOL) for _ in range(2)]
    made = [FakeNode(behaviour) for behaviour in behaviours]
    if bad:
        made.append(FakeNode(fails(chance)))
    async with world(*made, settings=replaced(relay=RULES, nodes=nodes)) as w:
        crowd = Crowd(w, chance, body, pieces)
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for _ in range(clients):
                    nursery.start_soon(crowd.client)
                await eventually(lambda: crowd.answered >= clients)
                await trio.sleep(chance.random() * 0.01)
                w.stopping.set()
            await w.ended.wait()
        assert sum(node.in_flight for node in w.lb._nodes.nodes) == 0
        assert sum(w.sizes()) == w.lb._held.taken == 0
    return crowd


WAYS: dict[str, dict[str, Any]] = {
    "small requests": {},
    "in pieces": {"pieces": True},
    "large bodies and answers": {"body": LARGE, "clients": 8},
    "more than there are workers": {"nodes": ONE_WORKER},
    "a node fails": {"bad": True},
    "all of it": {"bad": True, "pieces": True, "nodes": ONE_WORKER},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
async def test_what_was_asked_before_the_stop_is_answered_by_a_node(way: str, seed: int) -> None:
    crowd = await stop_under_load(seed, **WAYS[way])
    assert crowd.wrong == []
