"""What the command line accepts. Modules are imported when their command runs, so that `--help` is quick."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from appliance import __version__

DEFAULT_STREAM = "ws://127.0.0.1:1112/ws"
DEFAULT_ADMIN = "http://127.0.0.1:9090"
DEFAULT_LOG = "/var/lib/appliance/flashlog.db"


def build_parser() -> argparse.ArgumentParser:
    """The parser; each subcommand sets `command`, a function of the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="appliance",
        description="Engine API multiplexer, durable flashblock log and websocket fan-out in one process.",
    )
    parser.add_argument("--version", action="version", version=f"appliance {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_check_config(commands)
    _add_dev(commands)
    _add_status(commands)
    _add_tail(commands)
    _add_log(commands)
    return parser


_Commands = argparse._SubParsersAction  # noqa: SLF001 argparse has no public name for this type


def _lazy(module: str, function: str) -> Callable[[argparse.Namespace], object]:
    def call(arguments: argparse.Namespace) -> object:
        return getattr(import_module(f"appliance.cli.{module}"), function)(arguments)

    return call


def _add_command(
    commands: "_Commands[argparse.ArgumentParser]", name: str, text: str, module: str, function: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=_lazy(module, function))
    return parser


def _add_run(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = _add_command(commands, "run", "run the planes that a configuration file names", "run", "run")
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the configuration (TOML)")


def _add_check_config(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "check a configuration file and print every error in it"
    parser = _add_command(commands, "check-config", text, "run", "check_config")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", metavar="FILE", type=Path, nargs="?", help="the configuration (TOML)")
    what.add_argument("--sample", action="store_true", help="print a commented sample file instead")


def _add_dev(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "run a whole devnet in one process: simulated op-node, execution client and builders, real appliance"
    parser = _add_command(commands, "dev", text, "dev", "dev")
    import_module("appliance.cli.dev").add_arguments(parser)


def _add_status(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = _add_command(commands, "status", "show what a running appliance does", "status", "status")
    parser.add_argument("--url", default=DEFAULT_ADMIN, help="its admin address (default: %(default)s)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the admin token, where one is set")
    parser.add_argument("--json", action="store_true", help="print the JSON as it came")
    parser.add_argument("--watch", action="store_true", help="show it again every second until Ctrl-C")


def _add_tail(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "follow the flashblock stream in the terminal"
    parser = _add_command(commands, "tail", text, "tail", "tail")
    parser.add_argument("--url", default=DEFAULT_STREAM, help="the stream (default: %(default)s)")
    parser.add_argument(
        "--after",
        metavar="BLOCK[:INDEX]",
        help="resume strictly after this flashblock; without INDEX, from the start of the block",
    )
    parser.add_argument("--raw", action="store_true", help="print each message as it came, one a line")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N flashblocks")


def _add_log(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("log", help="verify, export, import or back up a flashblock log")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, text, argument in (
        ("verify", "check that the log is whole: every payload contiguous, every body readable", None),
        ("export", "write all entries as JSON lines", "OUT"),
        ("import", "add the entries of an export to a log", "IN"),
        ("backup", "copy the log while it is in use", "OUT"),
    ):
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        action.set_defaults(command=_lazy("log", f"log_{name}"))
        action.add_argument(
            "--log",
            metavar="FILE",
            type=Path,
            default=Path(DEFAULT_LOG),
            help="the log (default: %(default)s)",
        )
        if argument:
            action.add_argument("file", metavar=argument, type=Path, help="the file; - for standard in- or output")
