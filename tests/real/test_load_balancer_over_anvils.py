"""The load balancer as a process, in front of three real nodes: one is killed, hung, and comes back, under load."""

import http.client
import json
import pathlib
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median
from typing import Any

import pytest

from tests.real.anvil import Anvil
from tests.real.processes import ChildProcess
from tests.support.ports import lasting_port

CALL = b'{"jsonrpc":"2.0","id":1,"method":"eth_getBlockByNumber","params":["latest",true]}'
CLIENTS = 12
PROXY_TIMEOUT_S = 4.0
PIECES = 5


class LoadBalancer:
    """`appliance run` with nothing but `[lb]` and `[admin]`."""

    def __init__(self, folder: pathlib.Path, nodes: list[Anvil]) -> None:
        self.port, self._admin_port = lasting_port(), lasting_port()
        config = folder / "appliance.toml"
        config.write_text(
            f"""
[store]
folder = "{folder / "data"}"

[lb]
listen = "127.0.0.1:{self.port}"
proxy_timeout_ms = {int(PROXY_TIMEOUT_S * 1000)}
check_interval_s = 0.5
check_timeout_ms = 1000
ejection_s = 0.5
slow_return_s = 1
log_requests = false

[admin]
listen = "127.0.0.1:{self._admin_port}"
"""
            + "".join(f'\n[[lb.nodes]]\nurl = "{node.url}"\n' for node in nodes)
        )
        command = [sys.executable, "-m", "appliance", "run", "--config", str(config)]
        self.process = ChildProcess("appliance", command, folder / "output.log")

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(self._ready)

    def states(self) -> list[str]:
        """Of the nodes, in the order of the configuration."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin_port}/api/v1/lb/nodes", timeout=30) as answer:
            return [node["explain"]["state"] for node in json.load(answer)["nodes"]]

    def wait_for(self, condition: Callable[[list[str]], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition(states := self.states()):
            assert time.monotonic() < deadline, f"the nodes are {states}"
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return bool(self.states())
        except OSError:
            return False


class Load:
    """Clients in threads, each with one request at a time; every request must be answered by a node."""

    def __init__(self, port: int) -> None:
        self.latencies_s: list[tuple[float, float]] = []
        self.wrong: list[str] = []
        self._port = port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30.0)

    def since(self, began: float) -> list[float]:
        """Latencies of requests that were sent after ``began``, in the order of their answers."""
        return [took for at, took in list(self.latencies_s) if at >= began]

    def wait_for_requests(self, count: int) -> None:
        """So many more than now."""
        goal, deadline = len(self.latencies_s) + count, time.monotonic() + 60.0
        while len(self.latencies_s) < goal:
            assert time.monotonic() < deadline, f"{len(self.latencies_s)} of {goal}: {self.wrong[:3]}"
            time.sleep(0.02)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20.0)
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self._ask(connection)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.wrong.append(repr(error))
                connection.close()
            self.latencies_s.append((began, time.monotonic() - began))
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        connection.request("POST", "/", CALL, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body: Any = answer.read()
        if answer.status != 200 or "result" not in json.loads(body):
            self.wrong.append(f"{answer.status} {body[:200]!r}")


@pytest.fixture
def nodes(tmp_path: pathlib.Path) -> Iterator[list[Anvil]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Anvil(f"anvil-{number}", tmp_path / f"anvil-{number}")) for number in range(3)]


@pytest.fixture
def balancer(tmp_path: pathlib.Path, nodes: list[Anvil]) -> Iterator[LoadBalancer]:
    made = LoadBalancer(tmp_path, nodes)
    try:
        made.start()
        yield made
    finally:
        made.process.stop()


def p99(latencies: list[float]) -> float:
    """The median of the p99 of each piece: a moment in which the whole machine stands still is in one of them."""
    size = len(latencies) // PIECES
    pieces = [sorted(latencies[start : start + size]) for start in range(0, size * PIECES, size)]
    return median(piece[len(piece) * 99 // 100] for piece in pieces)


@pytest.mark.real
def test_one_of_three_nodes_is_killed_under_load_and_no_request_is_lost(
    balancer: LoadBalancer, nodes: list[Anvil]
) -> None:
    with Load(balancer.port) as load:
        load.wait_for_requests(600)
        before = load.since(0.0)
        killed_at = time.monotonic()
        nodes[1].kill()
        balancer.wait_for(lambda states: states[1] == "ejected")
        load.wait_for_requests(600)
        after = load.since(killed_at)
    assert load.wrong == []
    assert p99(after) < max(3 * p99(before), 0.25), (p99(before), p99(after))
    assert max(after) < PROXY_TIMEOUT_S, "nobody waits for a node that is gone"


@pytest.mark.real
def test_a_node_that_hangs_is_left_out_and_comes_back(balancer: LoadBalancer, nodes: list[Anvil]) -> None:
    with Load(balancer.port) as load:
        load.wait_for_requests(200)
        nodes[2].hang()
        balancer.wait_for(lambda states: states[2] == "ejected")
        began = time.monotonic()
        load.wait_for_requests(300)
        quick = load.since(began)
        nodes[2].resume()
        balancer.wait_for(lambda states: states == ["healthy"] * 3)
        load.wait_for_requests(100)
    assert load.wrong == []
    assert max(load.since(0.0)) < 3 * PROXY_TIMEOUT_S, "who was at the node waits once, and is answered by another"
    assert max(quick) < PROXY_TIMEOUT_S, "nobody waits for a node that is out"


@pytest.mark.real
def test_stopping_under_load_answers_every_request_that_was_taken(balancer: LoadBalancer) -> None:
    with Load(balancer.port) as load:
        load.wait_for_requests(100)
        assert balancer.process.stop() == 0
    # Connections on which nothing had been asked are closed, and new ones refused: those clients go elsewhere.
    assert [text for text in load.wrong if text[0].isdigit()] == []
