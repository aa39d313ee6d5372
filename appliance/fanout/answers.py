"""Refusals in the form that clients of websocket-proxy know: a status and a JSON object with `message`."""

import json
from typing import Final

from appliance.domain.errors import PrunedError
from appliance.net.http import HttpResponse

RETRY_AFTER: Final = ("retry-after", "5")  # seconds


def refusal(status: int, message: str, *headers: tuple[str, str]) -> HttpResponse:
    """A refusal that says why in one line."""
    return _json(status, {"message": message}, *headers)


def gone(error: PrunedError) -> HttpResponse:
    """410: the place is not held any more, but the oldest one is named."""
    oldest = error.oldest and {"block_number": error.oldest[0], "flashblock_index": error.oldest[1]}
    return _json(410, {"message": str(error), "oldest": oldest})


def _json(status: int, body: dict[str, object], *headers: tuple[str, str]) -> HttpResponse:
    return HttpResponse(status, json.dumps(body).encode() + b"\n", [("content-type", "application/json"), *headers])
