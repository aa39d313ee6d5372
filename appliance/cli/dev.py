"""`appliance dev`: the appliance as it is, with a simulated chain around it, in one process."""

import argparse
import fcntl
import sys
import tempfile
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import trio

from appliance.domain.errors import ConfigError
from appliance.telemetry.logging import configure

MAX_HOSTS = 7
_LIBRARIES = ("eth_account", "eth_hash", "eth_keys", "rlp")


def dev(arguments: argparse.Namespace) -> int:
    """Run until Ctrl-C, SIGTERM or ``--slots``."""
    if any(find_spec(name) is None for name in _LIBRARIES):
        raise ConfigError(
            "`appliance dev` makes real blocks and needs more libraries: pip install '.[devnet]' in the checkout"
        )
    if arguments.slots is not None and arguments.slots < 1:
        raise ConfigError(f"--slots {arguments.slots}: expected a number from 1")
    if not 0.2 <= arguments.block_time <= 60:
        raise ConfigError(f"--block-time {arguments.block_time:g}: expected seconds from 0.2 to 60")
    if not 1 <= arguments.hosts <= MAX_HOSTS:
        raise ConfigError(f"--hosts {arguments.hosts}: expected a number from 1 to {MAX_HOSTS}")
    if arguments.fault and arguments.replay is not None:
        raise ConfigError("--fault: a replay has no faults, only the devnet has")
    session = import_module("appliance.cli.dev_session").DevSession
    with ExitStack() as stack:
        folder = _data_folder(arguments, stack)
        _take_folder(folder, stack)
        _configure_logging(folder, stack)
        trio.run(session(arguments, folder).run)
    return 0


def _data_folder(arguments: argparse.Namespace, stack: ExitStack) -> Path:
    """A replay has a folder of its own each time: the log already holds what was replayed before."""
    if arguments.data is None and arguments.replay is not None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="appliance-replay-")))
    folder: Path = arguments.data or Path("devnet-data")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--data {folder}: {error.strerror}") from error
    return folder.absolute()


def _take_folder(folder: Path, stack: ExitStack) -> None:
    """One session in a folder, also where their ports differ: each would write the other's files and hosts anew.

    The kernel lets go of it when the process ends, however it ends.
    """
    try:
        lock = stack.enter_context((folder / "devnet.lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"--data {folder}: another `appliance dev` is at work there") from None
    except OSError as error:
        raise ConfigError(f"--data {folder}: {error.strerror}") from error


def _configure_logging(folder: Path, stack: ExitStack) -> None:
    """Log lines would tear a live screen: there they go to a file, and the screen says where."""
    if sys.stdout.isatty():
        stream = stack.enter_context((folder / "appliance.log").open("a", encoding="utf-8"))
        configure("info", "text", stream)
        stack.callback(configure, "info", "text")
    else:
        configure("info", "text")
