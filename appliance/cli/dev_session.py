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
        self._appliance: Appliance | None = None
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
            appliance = self._appliance = Appliance(self._config())
            listening = await nursery.start(appliance.run)
            self._screen = self._create_screen(listening)
            await nursery.start(self._screen.run)
            nursery.start_soon(self._stop_on_signal)
            nursery.start_soon(self._drive, f"http://{listening['engine']}")
            await self._enough.wait()
            appliance.stop()
            await appliance.wait_stopped()
            nursery.cancel_scope.cancel()

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
        return Screen(
            f"appliance dev: {what}, data in {self._folder}",
            self._hints(listening),
            situation=self._situation,
            flashblocks_of=getattr(self._network, "flashblocks_of", lambda _hash: None),
        )

    def _hints(self, listening: dict[str, str]) -> Sequence[Hint]:

        command = shlex.join([str(Path(sys.argv[0])), "tail"])
        status = shlex.join([str(Path(sys.argv[0])), "status"])
        mode = shlex.join([str(Path(sys.argv[0])), "mode"])
        hints = [
            Hint("follow the flashblocks", f"{command} --url ws://{listening['fanout']}/ws"),
            Hint("see every plane", f"{status} --url http://{listening['admin']}"),
            Hint("switch builders off", f"{mode} disabled --url http://{listening['admin']}"),
            Hint("metrics", f"curl -s http://{listening['admin']}/metrics"),
            Hint("health", f"curl -si http://{listening['engine']}/healthz"),
        ]
        if self._arguments.replay is None:
            hints.append(Hint(f"builder {BUILDERS[0]} down, and up again", f"kill -USR1 {os.getpid()}"))
        hints.append(Hint("kill it, start again, tail --after tail's last line", f"kill -9 {os.getpid()}"))
        hints.append(Hint("stop", f"kill {os.getpid()}, or Ctrl-C"))
        if sys.stdout.isatty():
            hints.append(Hint("log lines", f"tail -f {shlex.quote(str(self._folder / 'appliance.log'))}"))
        return hints

    def _situation(self) -> Situation:

        if self._appliance is None:
            return Situation()
        report: Any = self._appliance.statistics()
        health, _ = self._appliance.health()
        faults = getattr(self._network, "faults", list)
        return Situation(
            subscribers=report["planes"]["fanout"]["admitted"],
            flashblocks=report["flashlog"]["head"],
            health=health.value,
            faults=faults(),
        )


def _write_secret(path: Path) -> Path:
    if not path.exists():
        path.write_text(os.urandom(32).hex())
        path.chmod(0o600)
    return path
