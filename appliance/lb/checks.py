"""Asking nodes whether they are well: once before one is added, and again and again while it is there."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import trio

from appliance.domain.errors import UnavailableError
from appliance.lb.node import Node
from appliance.net.http_lane import HttpLane


@dataclass(frozen=True, slots=True)
class CheckRules:
    """The JSON-RPC method, without parameters, that a node has to answer, and within which time."""

    method: str = "net_version"
    timeout_s: float = 5.0


class Checker:
    """Sends checks. A status below 400 is well, also with a JSON-RPC error: the node is there and speaks."""

    def __init__(self, rules: CheckRules) -> None:
        self._rules = rules
        self._body = msgspec.json.encode({"jsonrpc": "2.0", "method": rules.method, "params": [], "id": 1})

    async def check(self, node: Node, lane: HttpLane) -> str | None:
        """What is wrong; None when nothing is."""
        with trio.move_on_after(self._rules.timeout_s):
            try:
                response = await lane.exchange(
                    b"%b%d\r\n\r\n" % (node.head, len(self._body)), self._body, trio.current_time()
                )
            except UnavailableError as error:
                return str(error)
            return None if response.status < 400 else f"status {response.status}"
        return f"no answer within {self._rules.timeout_s:g} s"

    async def check_once(self, node: Node) -> str | None:
        """`check` on a connection of its own."""
        lane = node.new_lane()
        try:
            return await self.check(node, lane)
        finally:
            lane.close()

    async def watch(self, node: Node, settle: Callable[[Node, float], None]) -> None:
        """Let the node's health live until its scope is cancelled; ``settle`` after all that may have changed it."""
        lane = node.new_lane()
        try:
            with node.scope:
                while True:
                    await self._step(node, lane, settle)
        finally:
            lane.close()

    async def _step(self, node: Node, lane: HttpLane, settle: Callable[[Node, float], None]) -> None:
        due = node.health.tick(trio.current_time())
        settle(node, trio.current_time())
        if due:
            problem = await self.check(node, lane)
            now = trio.current_time()
            if problem is None:
                node.health.check_passed(now)
            else:
                node.health.check_failed(problem, now)
            settle(node, now)
        node.nudge = trio.Event()
        with trio.move_on_at(node.health.next_event(trio.current_time())):
            await node.nudge.wait()
