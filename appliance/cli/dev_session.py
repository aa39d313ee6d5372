"""One run of `appliance dev`, apart from its command: it imports what a production host does without."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio

from appliance.cli.dev_files import EngineFiles, plan, write_files
from appliance.cli.dev_hosts import HostProcess, LocalHosts
from appliance.config.model import (
    AdminConfig,
    BuilderConfig,
    Config,
    EngineConfig,
    FanoutConfig,
    FlashblocksConfig,
    L2Config,
    StoreConfig,
)
from appliance.devnet.capture import read_capture
from appliance.devnet.network import Devnet, DevnetSettings
from appliance.devnet.node import SlotReport
from appliance.devnet.replay_network import Replay
from appliance.devnet.screen import Hint, Screen, Situation
from appliance.supervisor import Appliance

BUILDERS: Final = ("alpha", "beta")


class DevSession:
    """A network (devnet or replay), the appliance, and the screen."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments = arguments
        self._folder = folder
        self._slots = 0
        self._enough = trio.Event()
        self._appliance: Appliance | LocalHosts | None = None
        self._screen: Screen | None = None
        self._network: Any = self._create_network()

    def _create_network(self) -> Any:

        if self._arguments.replay is not None:
            return Replay(read_capture(self._arguments.replay), self._folder, on_slot=self._on_slot)
        settings = DevnetSettings(
            builders=BUILDERS, block_time_s=self._arguments.block_time, faults=tuple(self._arguments.fault)
        )
        return Devnet(self._folder, settings, on_slot=self._on_slot)

    async def run(self) -> None:
        """Start everything, innermost last; stop in the opposite order."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._network.run)
            appliance = self._appliance = self._create_appliance()
            listening = await nursery.start(appliance.run)
            self._screen = self._create_screen(listening)
            await nursery.start(self._screen.run)
            nursery.start_soon(self._stop_on_signal)
            nursery.start_soon(self._drive, f"http://{listening['engine']}")
            await self._enough.wait()
            appliance.stop()
            await appliance.wait_stopped()
            nursery.cancel_scope.cancel()

    def _create_appliance(self) -> Appliance | LocalHosts:
        """One in this process, or with `--hosts` several in processes of their own."""
        if self._arguments.hosts == 1:
            return Appliance(self._config())
        hosts = plan(self._folder, self._arguments.hosts, any_port=self._arguments.any_port)
        secret = _write_secret(self._folder / "op-node.jwt")
        network = self._network
        interval_s = self._arguments.block_time
        write_files(hosts, EngineFiles(secret, network.el_endpoint, network.builder_endpoints, interval_s))
        return LocalHosts(hosts, self._say)

    def _say(self, line: str) -> None:
        if self._screen is not None:
            self._screen.say(line)

    async def _drive(self, engine_url: str) -> None:
        secret = self._folder / "op-node.jwt"
        if self._arguments.replay is not None:
            await self._network.drive(engine_url, secret)
            if self._arguments.slots is not None:
                self._enough.set()
            elif not sys.stdout.isatty():
                print("the recording is over; its flashblocks stay for subscribers until Ctrl-C", flush=True)
        else:
            await self._network.start_node(engine_url, secret)

    async def _stop_on_signal(self) -> None:
        """Ctrl-C and SIGTERM stop; SIGUSR1 takes the first builder away and gives it back."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) as signals:
            async for number in signals:
                if number != signal.SIGUSR1:
                    self._enough.set()
                elif self._arguments.replay is None:
                    fault = f"builder-down:{BUILDERS[0]}"
                    self._network.set_fault(fault, on=fault not in self._network.faults())

    def _on_slot(self, report: SlotReport) -> None:
        if self._enough.is_set():
            return  # the appliance is being stopped: that this slot is missed says nothing
        if self._screen is not None:
            self._screen.on_slot(report)
        self._slots += 1
        if self._slots == self._arguments.slots:
            self._enough.set()

    def _config(self) -> Config:
        """What an operator would write in a file for this network."""
        secret = _write_secret(self._folder / "op-node.jwt")
        any_port = self._arguments.any_port
        el = self._network.el_endpoint
        return Config(
            store=StoreConfig(folder=str(self._folder)),
            engine=EngineConfig(
                listen="127.0.0.1:0" if any_port else "127.0.0.1:8081",
                debug_listen="127.0.0.1:0" if any_port else "127.0.0.1:5555",
                jwt_secret_file=str(secret),
                l2=L2Config(url=el.url, jwt_secret_file=str(el.secret_file)),
                builders=tuple(
                    BuilderConfig(
                        name=each.name,
                        url=each.url,
                        jwt_secret_file=str(each.secret_file),
                        flashblocks_url=each.flashblocks_url,
                    )
                    for each in self._network.builder_endpoints
                ),
                health_check_interval_s=self._arguments.block_time,
            ),
            flashblocks=FlashblocksConfig(),
            fanout=FanoutConfig(listen="127.0.0.1:0" if any_port else "127.0.0.1:1112"),
            admin=AdminConfig(listen="127.0.0.1:0" if any_port else "127.0.0.1:9090"),
        )

    def _create_screen(self, listening: dict[str, str]) -> Screen:

        what = f"replaying {self._arguments.replay.name}" if self._arguments.replay else "devnet"
        if self._arguments.hosts > 1:
            what += f" with {self._arguments.hosts} hosts"
        return Screen(
            f"appliance dev: {what}, data in {self._folder}",
            self._hints(listening),
            situation=self._situation,
            flashblocks_of=getattr(self._network, "flashblocks_of", lambda _hash: None),
        )

    def _hints(self, listening: dict[str, str]) -> Sequence[Hint]:
        if isinstance(self._appliance, LocalHosts):
            hints = _hints_of_hosts(self._appliance.processes)
        else:
            hints = [Hint("follow the flashblocks", f"{_command('tail')} --url ws://{listening['fanout']}/ws")]
        hints += [
            Hint("see every plane", f"{_command('status')} --url http://{listening['admin']}"),
            Hint("switch builders off", f"{_command('mode')} disabled --url http://{listening['admin']}"),
            Hint("metrics", f"curl -s http://{listening['admin']}/metrics"),
            Hint("health", f"curl -si http://{listening['engine']}/healthz"),
        ]
        if self._arguments.replay is None:
            hints.append(Hint(f"builder {BUILDERS[0]} down, and up again", f"kill -USR1 {os.getpid()}"))
        if self._arguments.hosts == 1:
            hints.append(Hint("kill it, start again, tail --after tail's last line", f"kill -9 {os.getpid()}"))
        hints.append(Hint("stop", f"kill {os.getpid()}, or Ctrl-C"))
        if sys.stdout.isatty() and self._arguments.hosts == 1:
            hints.append(Hint("log lines", f"tail -f {shlex.quote(str(self._folder / 'appliance.log'))}"))
        return hints

    def _situation(self) -> Situation:
        appliance = self._appliance
        if appliance is None:
            return Situation()
        faults: Sequence[str] = getattr(self._network, "faults", list)()
        if isinstance(appliance, LocalHosts):
            lines = [process.line() for process in appliance.processes]
            return Situation(appliance.subscribers, appliance.shown, appliance.health, faults, lines)
        report: Any = appliance.statistics()
        health, _ = appliance.health()
        admitted, head = report["planes"]["fanout"]["admitted"], report["flashlog"]["head"]
        return Situation(admitted, head, health.value, faults)


def _command(name: str) -> str:
    """A command as it can be typed here."""
    return shlex.join([str(Path(sys.argv[0])), name])


def _hints_of_hosts(processes: Sequence[HostProcess]) -> list[Hint]:
    """What only several hosts can show: a subscriber that changes hosts, and logs that are the same."""
    hosts = [process.host for process in processes]
    urls = " ".join(f"--url {host.stream_url}" for host in reversed(hosts))
    last, other = hosts[-1], hosts[0]
    logs = " ".join(shlex.quote(str(host.folder / "data")) for host in (other, last))
    return [
        Hint(f"follow the flashblocks on {last.name}, without it on the next host", f"{_command('tail')} {urls}"),
        Hint(f"kill {last.name}; it is back after a while", f"kill -9 {processes[-1].pid}"),
        Hint("have two hosts the same?", f"{_command('log')} compare {logs}"),
        Hint(f"what {last.name} does", f"{_command('status')} --url {last.admin_url}"),
        Hint("its file and log lines", f"{shlex.quote(str(last.config))}, {shlex.quote(str(last.log_file))}"),
    ]


def _write_secret(path: Path) -> Path:
    if not path.exists():
        path.write_text(os.urandom(32).hex())
        path.chmod(0o600)
    return path
