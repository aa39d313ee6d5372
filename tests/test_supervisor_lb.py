"""A process that runs only the load balancer: start, crash, restart, health and stop."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from appliance.config.model import AdminConfig, Config, LbConfig, LbNodeConfig, StoreConfig
from appliance.domain.errors import ConfigError
from appliance.domain.health import Health
from appliance.lb.service import LoadBalancer
from appliance.net.http_client import HttpClient
from appliance.supervisor import Appliance
from tests.lb.world import CALL, COOL, fake_node
from tests.support.eventually import eventually
from tests.test_supervisor import ANY, CrashesOnce, refuses


def lb_host(folder: Path, *urls: str, **changes: Any) -> Config:
    lb = LbConfig(listen=ANY, nodes=tuple(LbNodeConfig(url=url) for url in urls), **changes)
    return Config(store=StoreConfig(folder=str(folder)), lb=lb, admin=AdminConfig(listen=ANY))


async def test_a_process_with_only_the_load_balancer_works_end_to_end(nursery: trio.Nursery, tmp_path: Path) -> None:
    async with fake_node() as node, fake_node() as added:
        appliance = Appliance(lb_host(tmp_path, node.url))
        listening = await nursery.start(appliance.run)
        async with HttpClient(f"http://{listening['lb']}") as lb, HttpClient(f"http://{listening['admin']}") as admin:
            assert (await lb.request("POST", "/", (), CALL, timeout_s=60)).body == COOL
            assert (await admin.request("GET", "/healthz", timeout_s=60)).status == 200
            body = msgspec.json.encode({"uri": added.url})
            assert (await admin.request("POST", "/api/v1/lb/nodes", (), body, timeout_s=60)).status == 200
            shown = msgspec.json.decode((await admin.request("GET", "/api/v1/lb/nodes", timeout_s=60)).body)
            assert [(each["uri"], each["source"]) for each in shown["nodes"]] == [
                (node.url, "file"),
                (added.url, "added"),
            ]
            status = msgspec.json.decode((await admin.request("GET", "/api/v1/status", timeout_s=60)).body)
            assert status["planes"]["lb"]["state"] == "running"
            assert len(status["planes"]["lb"]["nodes"]) == 2
            metrics = (await admin.request("GET", "/metrics", timeout_s=60)).body
            assert b'lb_requests_total{priority="low"} 1.0' in metrics
        appliance.stop()
        await appliance.wait_stopped()
        assert refuses(listening["lb"])
        again = Appliance(lb_host(tmp_path, node.url))
        await nursery.start(again.run)
        assert again._lb is not None
        assert again._lb._nodes.uris() == [node.url, added.url]
        again.stop()
        await again.wait_stopped()


async def test_it_restarts_alone_and_clients_wait_meanwhile(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = CrashesOnce(LoadBalancer.run)
    monkeypatch.setattr(LoadBalancer, "run", crashes.method())
    async with fake_node() as node:
        appliance = Appliance(lb_host(tmp_path, node.url))
        listening = await nursery.start(appliance.run)
        crashes.crash.set()
        await eventually(lambda: appliance._planes["lb"].restarts == 1)
        async with HttpClient(f"http://{listening['lb']}") as lb, trio.open_nursery() as asking:
            asking.start_soon(expect_cool, lb)
            await eventually(lambda: lb.statistics()["opened"] == 1)
            crashes.again.set()
        assert not appliance.stopping
        appliance.stop()
        await appliance.wait_stopped()


async def expect_cool(lb: HttpClient) -> None:
    assert (await lb.request("POST", "/", (), CALL, timeout_s=60)).body == COOL


async def test_without_a_usable_node_a_load_balancer_alone_is_unavailable(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    appliance = Appliance(lb_host(tmp_path))
    await nursery.start(appliance.run)
    health, facts = appliance.health()
    assert health is Health.UNAVAILABLE
    assert [(fact.name, fact.healthy, fact.reason) for fact in facts] == [("lb nodes", False, "no nodes available")]
    appliance.stop()
    await appliance.wait_stopped()


async def test_an_attested_node_in_the_file_is_an_error_of_configuration(tmp_path: Path) -> None:
    appliance = Appliance(lb_host(tmp_path, f"https://SGX_{'ab' * 32}@node.example"))
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match="attestation of SGX nodes"), flatten_subgroups=True):
        await appliance.run()
