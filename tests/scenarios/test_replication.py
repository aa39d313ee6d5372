"""Three real processes, a devnet behind one of them, 200 subscribers, and what may happen to hosts and links."""

import random
from collections import Counter
from pathlib import Path

import trio

from appliance.devnet.network import Devnet, DevnetSettings
from appliance.flashlog.comparison import compare
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.maintenance import verify
from appliance.flashlog.reader import Reader
from tests.support.cluster import ORIGIN, Cluster, ClusterHost, cluster
from tests.support.eventually import eventually
from tests.support.hosts import started
from tests.support.log_order import order_of
from tests.support.swarm import Subscriber, Swarm

SEED = 20_26
SUBSCRIBERS = 200
ROUNDS = (
    "kill the origin",
    "stop a follower",
    "cut a host off",
    "kill a follower",
    "stall a host's links",
    "kill the origin",
    "cut a host off",
    "stop a follower",
    "stop the origin",
    "kill the origin",
    "stop for long a follower",
)
GIVEN_UP_S = 8.0
"""By then the others have given up the connections of one that is stopped."""

SETTINGS = DevnetSettings(builders=("alpha",), block_time_s=1.0, flashblock_interval_s=0.1)


class Rounds:
    """What happens, by a seed; ``record`` has a line for each round."""

    def __init__(self, hosts: Cluster, swarm: Swarm, seed: int) -> None:
        self.record: list[str] = []
        self._hosts = hosts
        self._swarm = swarm
        self._moments = random.Random(seed)
        self._actions = list(ROUNDS)
        self._moments.shuffle(self._actions)

    async def run(self) -> None:
        """All of them, each until the stream flows everywhere again."""
        for number, action in enumerate(self._actions, start=1):
            victim = self._victim(action)
            await trio.sleep(self._moments.uniform(0.0, 0.4))
            began, resumed = trio.current_time(), self._swarm.resumed
            self._swarm.scatter(SUBSCRIBERS // 4, self._moments)
            await self._act(action, victim, self._moments.uniform(0.3, 2.0))
            await self._hosts.wait_flowing(3)
            took_s = trio.current_time() - began
            entries = await self._hosts.entries()
            self.record.append(
                f"round {number}: {action} ({victim.name}): {took_s:.1f} s until the stream flowed everywhere, "
                f"{self._swarm.resumed - resumed} resumed, entries {[count for count, _ in entries]}"
            )
            print(self.record[-1])

    def _victim(self, action: str) -> ClusterHost:
        names = [ORIGIN] if "origin" in action else ["b", "c"] if "follower" in action else ["a", "b", "c"]
        return self._hosts.hosts[self._moments.choice(names)]

    async def _act(self, action: str, victim: ClusterHost, length_s: float) -> None:
        verb = action.split(maxsplit=1)[0]
        if verb == "kill":
            await victim.kill()
            await trio.sleep(length_s / 2)
            await victim.start()
        elif verb == "stop":
            victim.pause()
            await trio.sleep(GIVEN_UP_S if "for long" in action else length_s)
            victim.resume()
        else:
            await self._disturb_links(verb, victim, length_s)

    async def _disturb_links(self, verb: str, victim: ClusterHost, length_s: float) -> None:
        links = self._hosts.links_of(victim.name)
        for link in links:
            link.cut() if verb == "cut" else link.stall()
        await trio.sleep(length_s)
        for link in links:
            link.heal()


async def test_whatever_happens_to_hosts_and_links_every_subscriber_sees_each_flashblock_once(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    devnet = Devnet(tmp_path, SETTINGS)
    async with started(nursery, devnet), cluster(tmp_path, devnet) as hosts:
        origin = hosts.hosts[ORIGIN]
        swarm = Swarm([f"127.0.0.1:{host.ports.fanout}" for host in hosts.hosts.values()])
        async with trio.open_nursery() as crowd:
            swarm.add(SUBSCRIBERS, crowd)
            await eventually(lambda: all(each.connections for each in swarm.subscribers))
            await devnet.start_node(f"http://127.0.0.1:{origin.ports.engine}", origin.secret)
            await hosts.wait_flowing(3)
            rounds = Rounds(hosts, swarm, SEED)
            print(f"seed {SEED}")
            await rounds.run()
            devnet.set_fault("builder-down")
            entries = await hosts.wait_quiet()
            await eventually(lambda: all(len(each.seen) >= entries for each in swarm.subscribers))
            crowd.cancel_scope.cancel()
        for host in hosts.hosts.values():
            assert await host.stop() == 0
    check_logs(hosts)
    check_subscribers(swarm, hosts)
    assert len(rounds.record) == len(ROUNDS)
    assert swarm.resumed > 2 * SUBSCRIBERS


def check_logs(hosts: Cluster) -> None:
    """Every log is whole, and all are the same."""
    folders = [host.data for host in hosts.hosts.values()]
    for folder in folders:
        report = verify(folder)
        assert report.ok, report.problems
        found = compare(folders[0], folder)
        assert found.same, found.differences
    assert len({order_of(folder) for folder in folders}) == 1


def check_subscribers(swarm: Swarm, hosts: Cluster) -> None:
    """Nothing missing, nothing twice, each payload in order, and the bodies that the logs have."""
    reader = Reader(hosts.hosts[ORIGIN].data / DATABASE_NAME)
    records = reader.records(0, 2**40, 2**40, 2**40)
    reader.close()
    expected = {(str(record.payload_id), record.index): hash(record.body) for record in records}
    for subscriber in swarm.subscribers:
        check_subscriber(subscriber, expected)


def check_subscriber(subscriber: Subscriber, expected: dict[tuple[str, int], int]) -> None:
    keys = [(seen.payload_id, seen.index) for seen in subscriber.seen]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    assert not twice, (subscriber.number, twice)
    assert {key: seen.digest for key, seen in zip(keys, subscriber.seen, strict=True)} == expected, subscriber.number
    following: dict[str, int] = {}
    for seen in subscriber.seen:
        assert seen.index == following.get(seen.payload_id, 0), (subscriber.number, seen)
        following[seen.payload_id] = seen.index + 1
