"""Hosts without an engine: followers and learners that serve subscribers, as real processes."""

import subprocess
import sys
from pathlib import Path

import trio

from appliance.devnet.network import Devnet, DevnetSettings
from appliance.flashlog.comparison import compare
from appliance.net.http_client import HttpClient
from tests.support.cluster import ORIGIN, cluster
from tests.support.eventually import eventually
from tests.support.hosts import started
from tests.support.swarm import Swarm

SETTINGS = DevnetSettings(builders=("alpha",), block_time_s=0.5, flashblock_interval_s=0.1)


def appliance(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


async def test_two_voters_and_a_learner_whose_origin_is_lost(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Log host goes down: no committed flashblock lost."""
    devnet = Devnet(tmp_path, SETTINGS)
    network = cluster(tmp_path, devnet, ("a", "b"), learners=("edge",), timeout_ms=300)
    async with started(nursery, devnet), network as hosts:
        origin, follower, edge = hosts.hosts.values()
        swarm = Swarm([f"127.0.0.1:{host.ports.fanout}" for host in hosts.hosts.values()])
        async with trio.open_nursery() as crowd:
            swarm.add(9, crowd)
            await devnet.start_node(f"http://127.0.0.1:{origin.ports.engine}", origin.secret)
            await hosts.wait_flowing(8)
            await show_status(edge.ports.admin)
            await origin.kill()
            assert hosts.hosts[ORIGIN].process is None
            # What the origin had shown is shown by those who are left, and all subscribers find it there.
            furthest = max(len(each.seen) for each in swarm.subscribers)
            await eventually(lambda: all(len(each.seen) >= furthest for each in swarm.subscribers))
            await origin.start()
            await hosts.wait_flowing(3)
            crowd.cancel_scope.cancel()
        devnet.set_fault("builder-down")
        await hosts.wait_quiet()
        for host in hosts.hosts.values():
            assert await host.stop() == 0
    for host in (follower, edge):
        assert compare(origin.data, host.data).same
    for subscriber in swarm.subscribers:
        keys = [(seen.payload_id, seen.index) for seen in subscriber.seen]
        assert len(keys) == len(set(keys))


async def show_status(admin: int) -> None:
    """As operators and Prometheus see it."""
    url = f"http://127.0.0.1:{admin}"
    shown = await trio.to_thread.run_sync(appliance, "status", "--url", url)
    assert shown.returncode == 0
    for text in ("replication", "learner", "quorum 2 of 2", "peer a", "commits take"):
        assert text in shown.stdout, text
    async with HttpClient(url) as client:
        metrics = ""
        with trio.fail_after(60):  # a link may just begin again
            while 'replication_following{peer="a"} 1.0' not in metrics:
                metrics = (await client.request("GET", "/metrics", timeout_s=60)).body.decode()
    for name in ("replication_commit_seconds_bucket", "replication_held_entries"):
        assert name in metrics, name
