import random
from pathlib import Path

import pytest

from appliance.cli import dev_files
from appliance.cli.dev_files import EngineFiles, LocalHost, config_text, plan, write_files
from appliance.config.loader import load, loads
from appliance.config.model import Config
from appliance.devnet.endpoints import Endpoint
from appliance.secrets import Secrets


def engine_files(folder: Path) -> EngineFiles:
    def endpoint(name: str, flashblocks_url: str | None = None) -> Endpoint:
        secret = folder / f"{name}.jwt"
        secret.write_text("11" * 32)
        return Endpoint(name, "http://127.0.0.1:1", secret, flashblocks_url)

    op_node = folder / "op-node.jwt"
    op_node.write_text("22" * 32)
    return EngineFiles(op_node, endpoint("el"), [endpoint("alpha", "ws://127.0.0.1:2")], 0.5)


def written(folder: Path, count: int) -> tuple[tuple[LocalHost, ...], list[Config]]:
    hosts = plan(folder, count)
    write_files(hosts, engine_files(folder))
    return hosts, [load(host.config) for host in hosts]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_file_is_one_that_an_appliance_takes_secrets_included(tmp_path: Path, count: int) -> None:
    hosts, configs = written(tmp_path, count)
    assert len(configs) == count
    for host, config in zip(hosts, configs, strict=True):
        Secrets.load(config)
        assert config.store.folder == str(host.folder / "data")
        assert config.fanout is not None
        assert host.stream_url == f"ws://{config.fanout.listen}/ws"
        assert config.admin is not None
        assert host.admin_url == f"http://{config.admin.listen}"


def test_every_host_names_all_others_where_they_listen_and_no_other(tmp_path: Path) -> None:
    hosts, configs = written(tmp_path, 3)
    listening = {
        each.replication.host_id: f"ws://{each.replication.listen}" for each in configs if each.replication is not None
    }
    assert list(listening) == [host.name for host in hosts] == ["host-0", "host-1", "host-2"]
    for config in configs:
        assert config.replication is not None
        named = {peer.host_id: peer.url for peer in config.replication.peers}
        assert named == {name: url for name, url in listening.items() if name != config.replication.host_id}


def test_the_first_host_has_the_engine_and_the_builders_and_the_others_follow(tmp_path: Path) -> None:
    _, (first, *others) = written(tmp_path, 3)
    assert first.engine is not None
    assert first.engine.l2 is not None
    assert [builder.flashblocks_url for builder in first.engine.builders] == ["ws://127.0.0.1:2"]
    assert first.engine.health_check_interval_s == 0.5
    assert all(each.engine is None and each.flashblocks is None for each in others)


def test_the_usual_ports_are_the_first_hosts(tmp_path: Path) -> None:
    first, second, _ = plan(tmp_path, 3)
    assert (first.engine, first.debug, first.fanout, first.admin) == (8081, 5555, 1112, 9090)
    assert (second.engine, second.fanout, second.admin, second.replication) == (None, 1113, 9091, 8751)


def test_free_ports_all_differ_also_when_chance_says_the_same_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Repetitive(random.Random):
        def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
            """One of 20 ports, or a part of an address."""
            return super().randrange(start, start + 20 if start > 1000 else stop, step)

    monkeypatch.setattr(dev_files, "_RANDOM", Repetitive(1))
    hosts = plan(tmp_path, 3, any_port=True)
    ports = [port for host in hosts for port in (host.replication, host.fanout, host.admin)]
    ports += [port for port in (hosts[0].engine, hosts[0].debug) if port is not None]
    assert len(set(ports)) == len(ports) == 11


def test_the_shared_secret_outlives_a_restart_and_is_nobody_elses(tmp_path: Path) -> None:
    written(tmp_path, 3)
    secret = tmp_path / "replication.secret"
    before = secret.read_text()
    assert secret.stat().st_mode & 0o077 == 0
    written(tmp_path, 3)
    assert secret.read_text() == before


def test_a_folder_with_any_name_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" \\ folder'
    folder.mkdir()
    hosts = plan(folder, 2)
    config = loads(
        config_text(hosts[0], {"host-1": hosts[1].replication_url}, engine_files(folder)), folder=hosts[0].folder
    )
    assert config.engine is not None
    assert config.engine.jwt_secret_file == str(folder / "op-node.jwt")
