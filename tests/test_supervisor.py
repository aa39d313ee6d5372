"""The planes put together, in process: start, crash, restart and stop."""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from appliance import supervisor
from appliance.config.model import (
    AdminConfig,
    Config,
    EngineConfig,
    FanoutConfig,
    L2Config,
    ReplicationConfig,
    ReplicationPeerConfig,
    StoreConfig,
)
from appliance.domain.errors import ApplianceError, ConfigError
from appliance.domain.health import Health
from appliance.engine.service import Engine
from appliance.fanout.service import Fanout
from appliance.flashlog.service import FlashLog
from appliance.net.http_client import HttpClient
from appliance.replication.service import Replication
from appliance.replication.settings import replication_settings
from appliance.supervisor import Appliance
from tests.flashlog.support import flashblock
from tests.support.eventually import eventually
from tests.support.ports import lasting_port

# An address that no other test uses: where nobody may listen any more, no other test's server may be found.
ANY = "127.0.0.77:0"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def fanout_host(folder: Path) -> Config:
    return Config(store=StoreConfig(folder=str(folder)), fanout=FanoutConfig(listen=ANY), admin=AdminConfig(listen=ANY))


def engine_host(folder: Path) -> Config:
    secret = folder / "a.jwt"
    secret.write_text("11" * 32)
    el = L2Config(url="http://127.0.0.1:9", jwt_secret_file=str(secret))
    engine = EngineConfig(listen=ANY, debug_listen=ANY, jwt_secret_file=str(secret), l2=el)
    return Config(engine=engine, admin=AdminConfig(listen=ANY))


def refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


class CrashesOnce:
    """Wraps a plane's `run`: it crashes when `crash` is set, the first time only, and is down until `again` is."""

    def __init__(self, run: Callable[..., Awaitable[None]]) -> None:
        self.run = run
        self.crash, self.again = trio.Event(), trio.Event()
        self.starts = 0

    def method(self) -> Callable[..., Awaitable[None]]:
        async def run(plane: Any, *args: Any, **kwargs: Any) -> None:
            self.starts += 1
            if self.starts > 1:
                await self.again.wait()
                return await self.run(plane, *args, **kwargs)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_and_crash)
                await self.run(plane, *args, **kwargs)
                nursery.cancel_scope.cancel()
            return None

        return run

    async def _wait_and_crash(self) -> None:
        await self.crash.wait()
        raise RuntimeError("a bug")


async def test_nothing_listens_any_more_while_the_last_subscribers_leave(nursery: trio.Nursery, tmp_path: Path) -> None:
    appliance = Appliance(fanout_host(tmp_path))
    listening = await nursery.start(appliance.run)
    with connect(listening["fanout"]) as silent:  # never answers the close, so the drain takes its time
        silent.sendall(HANDSHAKE)
        assert (await trio.to_thread.run_sync(silent.recv, 4096)).startswith(b"HTTP/1.1 101 ")
        appliance.stop()
        await eventually(lambda: refuses(listening["fanout"]))
        assert appliance.statistics()["planes"]["fanout"]["state"] == "running"  # type: ignore[index]
    with trio.fail_after(60):
        await appliance.wait_stopped()


async def test_the_deadline_of_the_stop_leaves_room_for_the_drain(nursery: trio.Nursery, tmp_path: Path) -> None:
    fanout = FanoutConfig(listen=ANY, drain_s=40)
    appliance = Appliance(Config(store=StoreConfig(folder=str(tmp_path)), fanout=fanout))
    await nursery.start(appliance.run)
    assert appliance._stop_deadlines_s["fanout"] > 40 + 3
    appliance.stop()
    with trio.fail_after(60):  # there is nobody to send away
        await appliance.wait_stopped()


async def test_fan_out_is_in_a_hurry_while_the_engine_has_a_request(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Callable[[], bool]] = []
    plain = Fanout.__init__

    def init(self: Fanout, *args: Any, hurried: Callable[[], bool], **kwargs: Any) -> None:
        asked.append(hurried)
        plain(self, *args, hurried=hurried, **kwargs)

    monkeypatch.setattr(Fanout, "__init__", init)
    config = msgspec.structs.replace(
        engine_host(tmp_path), store=StoreConfig(folder=str(tmp_path)), fanout=FanoutConfig(listen=ANY)
    )
    appliance = Appliance(config)
    await nursery.start(appliance.run)
    assert appliance._engine is not None
    assert asked == [appliance._engine.is_busy]
    appliance.stop()
    await appliance.wait_stopped()


async def test_a_fan_out_that_crashes_restarts_alone_and_who_connects_meanwhile_is_served(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = CrashesOnce(Fanout.run)
    monkeypatch.setattr(Fanout, "run", crashing.method())
    appliance = Appliance(fanout_host(tmp_path))
    listening = await nursery.start(appliance.run)
    crashing.crash.set()
    await eventually(lambda: appliance.health()[0] is Health.PARTIAL)
    async with HttpClient(f"http://{listening['fanout']}") as client, trio.open_nursery() as asking:
        asking.start_soon(expect_well, client)
        await eventually(lambda: client.statistics()["opened"] == 1)
        crashing.again.set()
    planes: Any = appliance.statistics()["planes"]
    assert (planes["fanout"]["state"], planes["fanout"]["restarts"]) == ("running", 1)
    assert planes["admin"]["restarts"] == 0
    assert appliance.registry.get_sample_value("appliance_plane_restarts_total", {"plane": "fanout"}) == 1
    appliance.stop()
    await appliance.wait_stopped()


async def expect_well(client: HttpClient) -> None:
    assert (await client.request("GET", "/healthz", timeout_s=60)).status == 200


async def test_an_engine_that_crashes_ends_the_process_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = CrashesOnce(Engine.run)
    monkeypatch.setattr(Engine, "run", crashing.method())
    appliance = Appliance(engine_host(tmp_path))
    errors: list[ApplianceError] = []

    async def run(*, task_status: trio.TaskStatus[dict[str, str]]) -> None:
        try:
            await appliance.run(task_status=task_status)
        except ApplianceError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        listening = await nursery.start(run)
        crashing.crash.set()
        with trio.fail_after(60):
            await appliance.wait_stopped()
    assert ["the plane engine crashed" in str(error) for error in errors] == [True]
    assert refuses(listening["engine"])
    assert refuses(listening["admin"])


async def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = Config(
            store=StoreConfig(folder=str(tmp_path / "data")),
            fanout=FanoutConfig(listen=f"127.0.0.1:{taken.getsockname()[1]}"),
        )
        with pytest.raises(ConfigError, match=r"^fanout.listen: cannot listen on .*: Address already in use"):
            await Appliance(config).run()
    assert not (tmp_path / "data").exists()


def replicated_hosts(folder: Path) -> tuple[Config, Config]:
    """Two voters without an engine."""
    (folder / "r.secret").write_text("22" * 32)
    ports = {"a": lasting_port(), "b": lasting_port()}

    def config(name: str, other: str) -> Config:
        return Config(
            store=StoreConfig(folder=str(folder / name)),
            replication=ReplicationConfig(
                host_id=name,
                secret_file=str(folder / "r.secret"),
                listen=f"127.0.0.1:{ports[name]}",
                timeout_ms=200,
                peers=(ReplicationPeerConfig(host_id=other, url=f"ws://127.0.0.1:{ports[other]}"),),
            ),
            fanout=FanoutConfig(listen=ANY),
        )

    return config("a", "b"), config("b", "a")


async def test_while_replication_is_down_nothing_is_lost_and_then_commits_go_on(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = replicated_hosts(tmp_path)
    logs: list[FlashLog] = []
    compose = Appliance._compose

    async def keep_log(self: Appliance, secrets: Any, listeners: Any, flashlog: Any, upstreams: Any) -> None:
        logs.append(flashlog)
        await compose(self, secrets, listeners, flashlog, upstreams)

    monkeypatch.setattr(Appliance, "_compose", keep_log)
    other = Appliance(second)
    await nursery.start(other.run)
    crashing = CrashesOnce(Replication.run)
    monkeypatch.setattr(Replication, "run", crashing.method())
    appliance = Appliance(first)
    await nursery.start(appliance.run)
    log = logs[1]
    await log.append(flashblock(1, 0), "a")
    await eventually(lambda: log.head == 1)
    crashing.crash.set()
    await eventually(lambda: appliance.health()[0] is Health.PARTIAL)
    assert log.appended == 1
    await log.append(flashblock(1, 1), "a")  # nobody waits for the plane
    crashing.again.set()
    await eventually(lambda: log.head == logs[0].head == 2)
    planes: Any = appliance.statistics()["planes"]
    assert (planes["replication"]["restarts"], planes["fanout"]["restarts"]) == (1, 0)
    # What is shown was acknowledged by a host that follows this one: it need not be followed yet.
    await eventually(lambda: appliance.statistics()["planes"]["replication"]["peers"]["b"]["following"])  # type: ignore[index]
    await eventually(lambda: appliance.health()[0] is Health.OK)
    other.stop()
    await other.wait_stopped()
    await log.append(flashblock(1, 2), "a")
    await eventually(lambda: appliance.health()[0] is Health.PARTIAL)
    assert "1 flashblocks wait for a majority" in appliance.health()[1][0].reason
    assert log.head == 2
    appliance.stop()
    await appliance.wait_stopped()


async def test_an_edge_that_reaches_no_voter_says_so_and_goes_on_serving(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """206 and not 503: what it has it serves."""
    hasty = partial(replace, reach_grace_s=0.2)
    monkeypatch.setattr(supervisor, "replication_settings", lambda *given: hasty(replication_settings(*given)))
    edge = replicated_hosts(tmp_path)[0]
    assert edge.replication is not None
    learner = msgspec.structs.replace(edge.replication, host_id="edge", follow_only=True)
    appliance = Appliance(msgspec.structs.replace(edge, replication=learner, admin=AdminConfig(listen=ANY)))
    listening = await nursery.start(appliance.run)
    await eventually(lambda: appliance.health()[0] is Health.PARTIAL)
    async with HttpClient(f"http://{listening['admin']}") as client:
        answer = await client.request("GET", "/healthz", timeout_s=5)
    assert answer.status == 206
    (fact,) = msgspec.json.decode(answer.body)["facts"]
    assert (fact["name"], fact["healthy"]) == ("peers", False)
    assert fact["reason"].startswith("0 of 1 voters reached, 1 needed (b: ")
    assert fact["reason"].endswith("): subscribers see nothing new")
    appliance.stop()
    await appliance.wait_stopped()


async def test_a_reload_waits_until_the_planes_are_together(tmp_path: Path) -> None:
    """They would get half of the old and half of the new."""
    config = fanout_host(tmp_path)
    appliance, loaded, ended = Appliance(config), list[bool](), list[bool]()

    def load() -> Config:
        loaded.append(True)
        return config

    async def reload() -> None:
        ended.append(await appliance.reload(load))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        await trio.testing.wait_all_tasks_blocked()
        assert not loaded
        await nursery.start(appliance.run)
        await eventually(lambda: ended == [True])
        appliance.stop()
