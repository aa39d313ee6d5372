"""A reload: what is applied, what waits for a restart, and that a bad file changes nothing."""

import os
from pathlib import Path

import pytest
import structlog
import trio
from prometheus_client import CollectorRegistry

from appliance.config.loader import load
from appliance.config.model import Config
from appliance.reloading import Reloader
from appliance.secrets import Secrets

KEY, OTHER = "some-key-0123456789", "other-key-0123456789"
GOOD = """
[fanout]
max_per_ip = {limit}
[[fanout.api_keys]]
app = "a"
key_file = "a.keys"
[admin]
token_file = "token"
"""


class Host:
    """A file, its key file, and what was applied of them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.toml"
        self.keys, self.token = folder / "a.keys", folder / "token"
        self.keys.write_text(KEY)
        self.token.write_text("x" * 16)
        for secret in (self.keys, self.token):
            secret.chmod(0o600)
        self.path.write_text(GOOD.format(limit=5))
        self.registry = CollectorRegistry()
        self.now = 1_800_000_000.0
        self.reloader = Reloader(load(self.path), self.registry, lambda: self.now)
        self.reloader.started(Secrets.load(self.reloader.config))
        self.applied: list[tuple[Config, Secrets]] = []

    async def reload(self) -> bool:
        return await self.reloader.reload(lambda: load(self.path), self._apply)

    async def _apply(self, config: Config, secrets: Secrets) -> None:
        await trio.lowlevel.checkpoint()
        self.applied.append((config, secrets))

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"appliance_config_last_reload_{name}")


async def test_a_good_file_is_applied_and_said(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert (host.metric("successful"), host.metric("success_timestamp_seconds")) == (1, host.now)
    host.path.write_text(GOOD.format(limit=7))
    host.keys.write_text(f"{KEY}\n{OTHER}\n")
    host.now += 60
    with structlog.testing.capture_logs() as lines:
        assert await host.reload()
    [(config, secrets)] = host.applied
    assert config.fanout is not None
    assert config.fanout.max_per_ip == 7
    assert len(secrets.apps[0].digests) == 2
    assert host.metric("success_timestamp_seconds") == host.now
    [line] = lines
    assert (line["event"], line["changed"]) == (
        "configuration reloaded",
        ["fanout.max_per_ip", "fanout.api_keys[0].key_file (content)"],
    )
    with structlog.testing.capture_logs() as lines:
        assert await host.reload()
    assert lines[0]["changed"] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda host: host.path.write_text("[fanout"),
        lambda host: host.path.write_text("[fanout]\nmax_per_ip = 0\nmax_lag = 0\n"),
        lambda host: host.path.unlink(),
        lambda host: host.keys.write_text("short"),
        lambda host: host.keys.unlink(),
        lambda host: host.path.write_text("[fanout]\nmax_per_ip = " + "9" * 5000),
        lambda host: host.path.write_text("a = " + "[" * 100_000),
        lambda host: host.path.write_text(GOOD.format(limit=5).replace("a.keys", "a\\u0000.keys")),
    ],
)
async def test_a_bad_file_changes_nothing_and_is_said(tmp_path: Path, spoil: object) -> None:
    host = Host(tmp_path)
    before = host.reloader.config
    assert callable(spoil)
    spoil(host)
    with structlog.testing.capture_logs() as lines:
        assert not await host.reload()
    assert host.applied == []
    assert host.reloader.config is before
    assert (host.metric("successful"), host.metric("success_timestamp_seconds")) == (0, host.now)
    [line] = lines
    assert (line["event"], line["log_level"]) == ("configuration not reloaded, the old one holds", "error")
    assert line["errors"]
    status = host.reloader.statistics()
    assert (status["last_reload_successful"], status["error"]) == (False, "\n".join(line["errors"]))
    host.path.write_text(GOOD.format(limit=5))
    host.keys.write_text(KEY)
    assert await host.reload()
    assert host.metric("successful") == 1
    assert host.reloader.statistics()["error"] is None


async def test_what_cannot_be_reloaded_is_said_each_time_until_it_is_undone(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.path.write_text(GOOD.format(limit=6).replace("[admin]", "[admin]\nlisten = '127.0.0.1:1'"))
    host.token.write_text("y" * 16)
    for _ in range(2):
        with structlog.testing.capture_logs() as lines:
            assert await host.reload()
        assert lines[0]["event"] == "some changes hold only after a restart"
        assert lines[0]["keys"] == ["admin.listen", "admin.token_file (content)"]
        assert host.reloader.statistics()["need_restart"] == ["admin.listen", "admin.token_file (content)"]
    host.path.write_text(GOOD.format(limit=6))
    host.token.write_text("x" * 16)
    assert await host.reload()
    assert host.reloader.statistics()["need_restart"] == []


async def test_no_secret_is_in_a_log_line_or_the_status(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.keys.write_text(f"{OTHER}\n")
    host.token.write_text("y" * 16)
    with structlog.testing.capture_logs() as lines:
        await host.reload()
    shown = repr(lines) + repr(host.reloader.statistics())
    assert not any(secret in shown for secret in (KEY, OTHER, "y" * 16, "x" * 16))


async def test_a_key_file_that_everybody_can_read_is_said_and_taken_all_the_same(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.keys.chmod(0o644)
    with structlog.testing.capture_logs() as lines:
        assert await host.reload()
    assert lines[0] == {
        "event": "a secret file can be read by everybody",
        "log_level": "warning",
        "plane": "supervisor",
        "key": "fanout.api_keys[0].key_file",
        "file": str(host.keys),
        "mode": "644",
    }


async def test_two_reloads_do_not_overlap(tmp_path: Path) -> None:
    host = Host(tmp_path)
    running = most = 0

    async def apply(config: Config, secrets: Secrets) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.testing.wait_all_tasks_blocked()
        running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(host.reloader.reload, lambda: load(host.path), apply)
    assert most == 1


async def test_a_file_without_fan_out_takes_no_keys_from_the_one_that_runs(tmp_path: Path) -> None:
    """It goes on until a restart; without its keys everybody would be let in."""
    host = Host(tmp_path)
    host.path.write_text('[lb]\n[admin]\ntoken_file = "token"\n')
    with structlog.testing.capture_logs() as lines:
        assert await host.reload()
    [(config, secrets)] = host.applied
    assert config.fanout is not None
    assert [app.name for app in secrets.apps] == ["a"]
    assert {"fanout", "lb"} <= set(lines[0]["keys"])
    assert lines[1]["changed"] == []


async def writing_end(pipe: Path) -> int:
    """It can be opened once somebody reads."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            await trio.sleep(0.005)


async def test_a_stop_does_not_wait_for_a_key_file_that_nobody_writes(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.keys.unlink()
    os.mkfifo(host.keys)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.reload)
            pipe = await writing_end(host.keys)
            nursery.cancel_scope.cancel()
    os.close(pipe)  # lets the thread end
    assert host.applied == []
