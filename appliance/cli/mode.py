"""`appliance mode`: the emergency switch from a terminal."""

import argparse
import getpass
import re
import sys
from typing import Any

import msgspec
import trio

from appliance.cli.admin_client import fetch
from appliance.net.http_client import HttpClient

_PATH = "/api/v1/mode"


def mode(arguments: argparse.Namespace) -> int:
    """Print the mode, after switching it where one is given."""
    answer = msgspec.json.decode(trio.run(_talk, arguments))
    print(describe(answer))
    if answer["problem"]:
        print(f"appliance: a restart forgets this: {answer['problem']}", file=sys.stderr)
    return 0


async def _talk(arguments: argparse.Namespace) -> bytes:
    async with HttpClient(arguments.url) as client:
        if arguments.mode is None:
            return await fetch(client, arguments, "GET", _PATH)
        wanted = {"execution_mode": arguments.mode.replace("-", "_"), "via": "cli", "user": user_name()}
        return await fetch(client, arguments, "PUT", _PATH, msgspec.json.encode(wanted))


def describe(answer: dict[str, Any]) -> str:
    """One line: the mode, what decided it, since when and who."""
    who = f" by {answer['who']}" if answer["who"] else ""
    return f"{answer['execution_mode']} ({answer['source']}, since {answer['since']}{who})"


def user_name() -> str:
    """Who runs this command, for the audit; empty where that has no name."""
    try:
        return re.sub(r"[^\w.@-]", "_", getpass.getuser())[:64]
    except (KeyError, OSError, ImportError):  # a user id without a name, in a container
        return ""
