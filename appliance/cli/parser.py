"""What the command line accepts. Modules are imported when their command runs, so that `--help` is quick."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from appliance import __version__
from appliance.domain.errors import ConfigError

DEFAULT_ADMIN = "http://127.0.0.1:9090"
DEFAULT_LOG = "/var/lib/appliance/flashlog.db"


class _Parser(argparse.ArgumentParser):
    """A parser whose epilog may be looked up only when help is asked for."""

    late_epilog: Callable[[], str] | None = None

    def format_help(self) -> str:
        """The help, with the epilog as it is now."""
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()


def build_parser() -> argparse.ArgumentParser:
    """The parser; each subcommand sets `command`, a function of the parsed arguments."""
    parser = _Parser(
        prog="appliance",
        description="One process beside op-node: Engine API multiplexer, durable replicated flashblock log, "
        "websocket fan-out, failover over L1 endpoints, JSON-RPC load balancer.",
    )
    parser.add_argument("--version", action="version", version=f"appliance {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_check_config(commands)
    _add_dev(commands)
    _add_status(commands)
    _add_mode(commands)
    _add_node(commands)
    _add_tail(commands)
    _add_log(commands)
    return parser


_Commands = argparse._SubParsersAction  # noqa: SLF001 argparse has no public name for this type


def _lazy(module: str, function: str) -> Callable[[argparse.Namespace], object]:
    def call(arguments: argparse.Namespace) -> object:
        return getattr(import_module(f"appliance.cli.{module}"), function)(arguments)

    return call


def _add_command(commands: "_Commands[_Parser]", name: str, text: str, module: str, function: str) -> _Parser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=_lazy(module, function))
    return parser


def _add_run(commands: "_Commands[_Parser]") -> None:
    parser = _add_command(commands, "run", "run the planes that a configuration file names", "hangup", "run")
    parser.add_argument("--config", metavar="FILE", type=Path, help="the configuration (TOML)")
    parser.add_argument(
        "--mock-node",
        action="store_true",
        help="put a node that answers net_version and eth_callBundle (127.0.0.1:8095) behind the load balancer; "
        "without --config, that and the admin plane are all that runs",
    )
    parser.add_argument(
        "--stop-at-eof",
        action="store_true",
        help="stop in order when standard input ends, too: for programs that start this one through a pipe, and that "
        "must not leave it behind however they end",
    )


def _add_check_config(commands: "_Commands[_Parser]") -> None:
    text = "check a configuration file and print every error in it"
    parser = _add_command(commands, "check-config", text, "run", "check_config")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", metavar="FILE", type=Path, nargs="?", help="the configuration (TOML)")
    what.add_argument("--sample", action="store_true", help="print a commented sample file instead")


def _add_dev(commands: "_Commands[_Parser]") -> None:
    text = "run a whole devnet in one process: simulated op-node, execution client and builders, real appliance"
    parser = _add_command(commands, "dev", text, "dev", "dev")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.late_epilog = _faults
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[:BUILDER]",
        help="make the devnet misbehave, may be repeated; the builders are alpha and beta",
    )
    parser.add_argument("--replay", type=Path, metavar="FILE.jsonl", help="stream recorded flashblocks instead")
    parser.add_argument("--block-time", type=float, default=2.0, metavar="S", help="seconds (default: %(default)s)")
    parser.add_argument("--slots", type=int, metavar="N", help="stop after N blocks")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="data folder (default: ./devnet-data)")
    parser.add_argument(
        "--hosts",
        type=int,
        default=1,
        metavar="N",
        help="replicate the stream over so many hosts, each a process with a file of its own in the data folder; "
        "3 is a good number to kill one of (default: %(default)s)",
    )
    parser.add_argument("--any-port", action="store_true", help="listen on free ports instead of the usual ones")


def _faults() -> str:
    lines = import_module("appliance.devnet.faults").help_lines()
    return "faults:\n" + "\n".join(f"  {line}" for line in lines)


def _url(*schemes: str) -> Callable[[str], str]:
    """A type of arguments: what is no such URL is said with the option's name."""

    def url(text: str) -> str:
        try:
            import_module("appliance.net.opening").parse_url(text, *schemes)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("URL: ")) from error
        return text

    return url


def _add_admin(parser: "_Parser") -> None:
    parser.add_argument(
        "--url", type=_url("http", "https"), default=DEFAULT_ADMIN, help="its admin address (default: %(default)s)"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the admin token, where one is set")


def _add_mode(commands: "_Commands[_Parser]") -> None:
    text = "show how far builders are used, or switch it: the emergency switch"
    parser = _add_command(commands, "mode", text, "mode", "mode")
    _add_admin(parser)
    parser.add_argument(
        "mode",
        metavar="enabled|dry-run|disabled",
        nargs="?",
        type=lambda text: text.replace("_", "-"),
        choices=("enabled", "dry-run", "disabled"),
        help="what to switch to; without it, the present mode is shown",
    )


def _add_node(commands: "_Commands[_Parser]") -> None:
    parser = commands.add_parser("node", help="list, add or remove nodes of the load balancer")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, text in (
        ("list", "show the nodes, where each stands and why"),
        ("add", "check a node and add it; it is kept until it is removed"),
        ("remove", "take out a node that was added; its running requests finish"),
    ):
        action = _add_command(actions, name, text, "node", f"node_{name}")
        _add_admin(action)
        if name == "list":
            action.add_argument("--json", action="store_true", help="print the JSON as it came")
        else:
            action.add_argument("uri", metavar="URI", help="as http://host:8545, or as `node list` shows it")
        if name == "add":
            action.add_argument("--workers", type=int, metavar="N", help="requests at a time (default: [lb] workers)")


def _add_status(commands: "_Commands[_Parser]") -> None:
    parser = _add_command(commands, "status", "show what a running appliance does", "status", "status")
    _add_admin(parser)
    parser.add_argument("--all", action="store_true", help="every number of every plane")
    parser.add_argument("--json", action="store_true", help="print the JSON as it came")
    parser.add_argument("--watch", action="store_true", help="show it again every second until Ctrl-C")


def _add_tail(commands: "_Commands[_Parser]") -> None:
    text = "follow the flashblock stream in the terminal"
    parser = _add_command(commands, "tail", text, "tail", "tail")
    parser.add_argument(
        "--url",
        action="append",
        type=_url("ws", "wss"),
        metavar="URL",
        help="the stream (default: ws://127.0.0.1:1112/ws); may be repeated: when one host fails the next goes on",
    )
    parser.add_argument(
        "--after",
        metavar="BLOCK[:INDEX]",
        help="resume strictly after this flashblock; without INDEX, from the start of the block",
    )
    parser.add_argument("--raw", action="store_true", help="print each message as it came, one a line")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N flashblocks")


def _add_log(commands: "_Commands[_Parser]") -> None:
    parser = commands.add_parser(
        "log", help="verify, compare, export, import, back up or prune a flashblock log, show what it refused"
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, text, argument in (
        ("verify", "check that the log is whole: every payload contiguous, every body readable", None),
        ("export", "write all entries as JSON lines", ("OUT", "the file; - for standard output")),
        (
            "import",
            "add the entries of an export to a log (FILE must be named flashlog.db)",
            ("IN", "the file; - for standard input"),
        ),
        ("backup", "copy the log while it is in use", ("OUT", "the file; it must not exist yet")),
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
            action.add_argument("file", metavar=argument[0], type=Path, help=argument[1])
    _add_log_compare(actions)
    _add_log_evidence(actions)
    _add_log_prune(actions)


def _add_log_compare(actions: "_Commands[_Parser]") -> None:
    text = "say in what two hosts' logs differ: flashblocks that one has, and bodies that are not the same"
    action = actions.add_parser("compare", help=text, description=text[0].upper() + text[1:] + ".")
    action.set_defaults(command=_lazy("log", "log_compare"))
    action.epilog = "What retention has removed from one of them is no difference. Exit code 1 when they differ."
    for name in ("one", "other"):
        action.add_argument(
            name, metavar=name.upper(), type=Path, help="a log, its folder or a backup; it may be in use"
        )


def _add_log_evidence(actions: "_Commands[_Parser]") -> None:
    text = "show the second bodies that a log refused, and who sent them"
    action = actions.add_parser("evidence", help=text, description=text[0].upper() + text[1:] + ".")
    action.set_defaults(command=_lazy("log", "log_evidence"))
    action.add_argument(
        "--log", metavar="FILE", type=Path, default=Path(DEFAULT_LOG), help="the log (default: %(default)s)"
    )
    action.add_argument("--raw", action="store_true", help="as JSON lines with the bodies, in the form of an export")


def _add_log_prune(actions: "_Commands[_Parser]") -> None:
    text = "remove the oldest payloads of a log that is not in use, and give the room back to the disk"
    action = actions.add_parser("prune", help=text, description=text[0].upper() + text[1:] + ".")
    action.set_defaults(command=_lazy("log", "log_prune"))
    action.epilog = "While the appliance runs, retention_hours and retention_mib in [flashlog] do this."
    action.add_argument(
        "--log", metavar="FILE", type=Path, default=Path(DEFAULT_LOG), help="the log (default: %(default)s)"
    )
    action.add_argument("--keep-hours", type=float, metavar="H", help="keep what is younger than this")
    action.add_argument("--keep-mib", type=float, metavar="N", help="keep the newest so many MiB of flashblocks")
    action.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
