"""`appliance node`: the load balancer's nodes from a terminal."""

import argparse
import sys
from typing import Any

import msgspec
import trio
from rich.markup import escape
from rich.table import Column, Table

from appliance.cli.admin_client import fetch
from appliance.cli.console import table_console
from appliance.cli.mode import user_name
from appliance.net.http_client import HttpClient

_PATH = "/api/v1/lb/nodes"
_STYLES = {"healthy": "green", "returning": "yellow"}


def node_list(arguments: argparse.Namespace) -> int:
    """Print the nodes."""
    body = trio.run(_talk, arguments, "GET", b"")
    if arguments.json:
        print(body.decode())
    else:
        table_console().print(render(msgspec.json.decode(body)))
    return 0


def node_add(arguments: argparse.Namespace) -> int:
    """Add one, after its check."""
    wanted: dict[str, object] = {"uri": arguments.uri, "via": "cli", "user": user_name()}
    if arguments.workers is not None:
        wanted["workers"] = arguments.workers
    node = msgspec.json.decode(trio.run(_talk, arguments, "POST", msgspec.json.encode(wanted)))
    print(f"{node['uri']}: {node['workers']} workers, {node['explain']['state']}")
    _warn(node["problem"])
    return 0


def node_remove(arguments: argparse.Namespace) -> int:
    """Take one out; its running requests finish."""
    wanted = {"uri": arguments.uri, "via": "cli", "user": user_name()}
    answer = msgspec.json.decode(trio.run(_talk, arguments, "DELETE", msgspec.json.encode(wanted)))
    print("removed")
    _warn(answer["problem"])
    return 0


def _warn(problem: str | None) -> None:
    """The change counts in any case, as a throw of the switch does."""
    if problem:
        print(f"appliance: {problem}", file=sys.stderr)


async def _talk(arguments: argparse.Namespace, method: str, body: bytes) -> bytes:
    async with HttpClient(arguments.url) as client:
        return await fetch(client, arguments, method, _PATH, body, section="lb")


def render(answer: dict[str, Any]) -> Table:
    """A row for each node: where it stands, and why."""
    uri = Column("node", no_wrap=True, overflow="fold")  # `remove` wants it whole: other columns give way
    table = Table(uri, "from", "workers", "in flight", "state", "why", box=None, pad_edge=False, header_style="bold")
    for node in answer["nodes"]:
        explain = node["explain"]
        state = explain["state"]
        table.add_row(
            escape(node["uri"]),
            node["source"],
            f"{explain['capacity']}/{node['workers'] or '-'}",
            str(node["in_flight"]),
            f"[{_STYLES.get(state, 'red')}]{state}[/]",
            escape(explain["reason"]),
        )
    if answer["problem"]:
        table.caption = f"[red]{escape(answer['problem'])}[/red]"
    return table
