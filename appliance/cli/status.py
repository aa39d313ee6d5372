"""`appliance status`: the admin plane's status as tables for people."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from appliance.cli.admin_client import fetch
from appliance.cli.console import table_console
from appliance.cli.summary import cell, lines
from appliance.domain.errors import ApplianceError
from appliance.net.http_client import HttpClient

_STYLES = {"running": "green", "ok": "green", "partial": "yellow", "restarting": "yellow"}


def status(arguments: argparse.Namespace) -> int:
    """Print the status once, or keep showing it."""
    trio.run(_watch if arguments.watch else _once, arguments)
    return 0


async def _once(arguments: argparse.Namespace) -> None:
    async with HttpClient(arguments.url) as client:
        body = await _fetch(client, arguments)
    if arguments.json:
        print(body.decode())
    else:
        table_console().print(_rendered(arguments, body))


async def _watch(arguments: argparse.Namespace) -> None:
    async with HttpClient(arguments.url) as client:
        with Live(console=Console(), screen=sys.stdout.isatty(), auto_refresh=False) as live:
            while True:
                live.update(await _current(client, arguments), refresh=True)
                await trio.sleep(1)


async def _current(client: HttpClient, arguments: argparse.Namespace) -> RenderableType:
    try:
        return _rendered(arguments, await _fetch(client, arguments))
    except ApplianceError as error:
        return f"[red]{escape(str(error))}[/red]"


async def _fetch(client: HttpClient, arguments: argparse.Namespace) -> bytes:
    return await fetch(client, arguments, "GET", "/api/v1/status", section="admin")


def _rendered(arguments: argparse.Namespace, body: bytes) -> RenderableType:
    report = msgspec.json.decode(body)
    return render_all(report) if arguments.all else render(report)


def render(report: dict[str, Any]) -> RenderableType:
    """The report of `/api/v1/status` on one screen: health, planes, and what people look at first."""
    table = _overview(report)
    table.add_row("planes", ", ".join(_state(name, numbers) for name, numbers in report["planes"].items()))
    for what, text in lines(report):
        table.add_row(what, escape(text))
    return table


def render_all(report: dict[str, Any]) -> RenderableType:
    """The same with every number of every plane, by its path."""
    planes = report["planes"]
    tables = [_overview(report), _planes(planes)]
    numbers = {**planes, "flashlog": report["flashlog"]}
    tables += [_details(name, values) for name, values in numbers.items() if _rows(values)]
    return Group(*tables)


def _state(name: str, numbers: dict[str, Any]) -> str:
    state, restarts = numbers["state"], numbers["restarts"]
    text = f"{name} [{_STYLES.get(state, 'red')}]{state}[/]"
    return f"{text} ({restarts} restarts)" if restarts else text


def _overview(report: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    health = report["health"]
    table.add_row("appliance", f"{report['version']}, up {_duration(report['uptime_s'])}")
    table.add_row("health", f"[{_STYLES.get(health['status'], 'red')}]{health['status']}[/]")
    for fact in health["facts"]:
        mark = "[green]well[/]" if fact["healthy"] else "[red]not well[/]"
        table.add_row(f"  {fact['name']}", f"{mark}  {escape(fact['reason'])}")
    subscribers = _subscribers(report["planes"].get("fanout", {}).get("hub") or {})
    if subscribers:
        table.add_row("subscribers", subscribers)
    return table


def _subscribers(hub: dict[str, Any]) -> str:
    """How many there are, and how far behind: the line that says whether subscribers are well."""
    lag = hub.get("lag")
    if lag is None:
        return ""
    behind = ", ".join(f"{name} {value:,}" for name, value in lag.items())
    return f"{hub['subscribers']:,}, {sum(hub['at_head'].values()):,} at the head; entries behind: {behind}"


def _planes(planes: dict[str, Any]) -> Table:
    table = Table("plane", "state", "restarts", box=None, pad_edge=False, header_style="bold")
    for name, numbers in planes.items():
        state = numbers["state"]
        table.add_row(name, f"[{_STYLES.get(state, 'red')}]{state}[/]", str(numbers["restarts"]))
    return table


def _details(name: str, numbers: dict[str, Any]) -> Table:
    table = Table(title=name, box=None, show_header=False, title_justify="left", title_style="bold", pad_edge=False)
    for label, value in _rows(numbers):
        table.add_row(f"  {label}", escape(value))
    return table


def _rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    return list(_walk({key: value for key, value in numbers.items() if key not in ("state", "restarts")}, ""))


def _walk(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{prefix}[{index}]")
    else:
        yield prefix, cell(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number][:2]
    return " ".join(shown) or "0 s"
