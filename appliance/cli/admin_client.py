"""Asking a running appliance over its admin API, for the commands that do."""

import argparse
from pathlib import Path

import msgspec

from appliance.domain.errors import ConfigError, UnavailableError
from appliance.net.http_client import HttpClient
from appliance.wire.jsonrpc import MALFORMED

_TIMEOUT_S = 10.0  # adding a node waits for its check, of five seconds


class _Refusal(msgspec.Struct):
    message: str


async def fetch(
    client: HttpClient,
    arguments: argparse.Namespace,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    section: str = "engine",
) -> bytes:
    """The body of an answer with status 200; else ConfigError or UnavailableError, one clear line.

    ``section`` is that of the configuration without which the path is not there.
    """
    headers = _authorization(arguments.token_file)
    try:
        answer = await client.request(method, path, headers, body, timeout_s=_TIMEOUT_S)
    except UnavailableError as error:
        raise UnavailableError(f"no appliance answers at {arguments.url}: {error}") from error
    if answer.status == 401:
        raise ConfigError(f"{arguments.url} asks for a token: give it with --token-file")
    if answer.status == 404:
        raise UnavailableError(f"{arguments.url} has no {path}: is it the admin address of a host with [{section}]?")
    if answer.status == 400:
        raise UnavailableError(_message(answer.body))
    if answer.status != 200:
        raise UnavailableError(f"{arguments.url} answered status {answer.status}; is it the admin address?")
    return bytes(answer.body)


def _message(body: bytes) -> str:
    """What a refusal says: why."""
    try:
        return msgspec.json.decode(body, type=_Refusal).message
    except MALFORMED:
        return "refused, without a reason"


def _authorization(token_file: Path | None) -> list[tuple[str, str]]:
    if token_file is None:
        return []
    try:
        return [("Authorization", f"Bearer {token_file.read_text().strip()}")]
    except OSError as error:
        raise ConfigError(f"--token-file {token_file}: cannot be read: {error.strerror}") from error
