"""`appliance run` and `appliance check-config`."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from pathlib import Path

import trio

from appliance.cli.end_of_input import stop_at_end_of_input
from appliance.cli.file_checks import check_files, check_folder
from appliance.cli.hangup import HANGUP
from appliance.cli.mock_node import mock_config, run_beside_mock_node
from appliance.config.environment import names_by_key
from appliance.config.loader import load
from appliance.config.model import Config
from appliance.domain.errors import ConfigError
from appliance.exposed_secrets import exposed
from appliance.supervisor import Appliance
from appliance.telemetry.logging import configure, get_logger

log = get_logger("supervisor")

StopWatch = Callable[[Appliance], Awaitable[None]]
"""Waits for something, and then stops the appliance in order."""


def run(arguments: argparse.Namespace) -> int:
    """Run the configured planes until SIGTERM or SIGINT; the second signal does not wait for the drain.

    SIGHUP reads the file again. With `--stop-at-eof` the end of standard input begins the stop in order, too.
    """
    stops = (stop_at_end_of_input,) if arguments.stop_at_eof else ()
    if arguments.mock_node:
        return _run_with_mock_node(arguments.config, *stops)
    if arguments.config is None:
        raise ConfigError("run: --config FILE is missing (or --mock-node, to try the load balancer)")
    config = load(arguments.config)
    configure(config.log.level, config.log.format)
    check_folder(config)
    _say_what_wins(config)
    trio.run(run_until_signal, Appliance(config), partial(load, arguments.config), *stops)
    return 0


def _say_what_wins(config: Config) -> None:
    """A variable that was forgotten in a unit must not be a riddle."""
    names = names_by_key(os.environ) if config.lb is not None else {}
    if names:
        log.info("the environment wins over the file", **{f"lb.{key}": name for key, name in names.items()})


def _run_with_mock_node(path: Path | None, *stops: StopWatch) -> int:
    with tempfile.TemporaryDirectory(prefix="appliance-mock-") as folder:
        read = partial(mock_config, path, Path(folder))
        config = read()
        configure(config.log.level, config.log.format)
        trio.run(run_beside_mock_node, partial(run_until_signal, Appliance(config), read, *stops))
    return 0


def check_config(arguments: argparse.Namespace) -> int:
    """Report every error of a file and of the files that it names; silent about what is well but for one line."""
    if arguments.sample:
        print((files("appliance.config") / "sample.toml").read_text(), end="")
        return 0
    config = load(arguments.file)
    check_files(config)
    for each in exposed(config):
        print(f"appliance: warning: {each}", file=sys.stderr)
    planes = [
        name
        for name in ("engine", "flashblocks", "replication", "fanout", "lb", "providers", "admin")
        if getattr(config, name)
    ]
    if config.engine is not None and config.engine.builder_listen is not None:
        planes[0:1] = ["engine", "builder_listen"] if config.engine.l2 is not None else ["builder_listen"]
    print(f"{arguments.file}: well; it runs {', '.join(planes)}")
    return 0


async def run_until_signal(appliance: Appliance, read: Callable[[], Config], *stops: StopWatch) -> None:
    """Run an appliance, stop it in order on the first signal, and reload its file on each SIGHUP.

    ``stops`` are what else stops it.
    """
    async with trio.open_nursery() as nursery:
        for stop in stops:
            nursery.start_soon(stop, appliance)
        nursery.start_soon(_reload_on_signal, appliance, read)
        nursery.start_soon(_stop_on_signal, appliance, nursery.cancel_scope)
        await appliance.run()
        nursery.cancel_scope.cancel()


async def _stop_on_signal(appliance: Appliance, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        log.info("stopping", signal=signal.Signals(await anext(signals)).name)
        appliance.stop()
        log.warning("stopping at once", signal=signal.Signals(await anext(signals)).name)
        scope.cancel()


async def _reload_on_signal(appliance: Appliance, read: Callable[[], Config]) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        if HANGUP.taken():  # it came while the process started, perhaps after the file was read
            await appliance.reload(read)
        async for _ in signals:
            await appliance.reload(read)
