"""One entry as one line of JSON, and back, byte for byte.

    {"position": 1, "payload_id": "0x…", "index": 0, "block_number": 35535698, "encoding": "text",
     "builder": "a", "received_at": 1760000000.0, "body": "{\\"payload_id\\": …}"}

``body`` is the message as a JSON string for `text`, base64 for `brotli`. Bytes that are not UTF-8 come
through as lone surrogates (Python's `surrogateescape`), so that even a damaged body is not altered.
"""

import base64
import json
from dataclasses import dataclass

import msgspec

from appliance.domain.errors import LogError
from appliance.domain.flashblocks import Encoding
from appliance.domain.payloads import PayloadId


@dataclass(frozen=True, slots=True)
class ExportedEntry:
    """All that a line says. ``received_at`` is wall clock seconds."""

    position: int
    payload_id: PayloadId
    index: int
    block_number: int
    encoding: Encoding
    builder: str
    received_at: float
    body: bytes


def to_line(entry: ExportedEntry) -> bytes:
    """The line, with its newline; pure ASCII."""
    fields = {
        "position": entry.position,
        "payload_id": entry.payload_id,
        "index": entry.index,
        "block_number": entry.block_number,
        "encoding": entry.encoding.value,
        "builder": entry.builder,
        "received_at": entry.received_at,
        "body": _body_text(entry),
    }
    return json.dumps(fields).encode("ascii") + b"\n"


def from_line(line: bytes) -> ExportedEntry:
    """The entry; LogError names what is wrong with the line."""
    try:
        found = json.loads(line)
        fields = msgspec.convert(found, _Fields)
        body = _body_bytes(fields)
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        raise LogError(f"not an exported entry: {error}") from error
    return ExportedEntry(
        fields.position,
        PayloadId(fields.payload_id),
        fields.index,
        fields.block_number,
        fields.encoding,
        fields.builder,
        fields.received_at,
        body,
    )


class _Fields(msgspec.Struct):
    position: int
    payload_id: str
    index: int
    block_number: int
    encoding: Encoding
    builder: str
    received_at: float
    body: str


def _body_text(entry: ExportedEntry) -> str:
    if entry.encoding is Encoding.TEXT:
        return entry.body.decode("utf-8", "surrogateescape")
    return base64.b64encode(entry.body).decode("ascii")


def _body_bytes(fields: _Fields) -> bytes:
    if fields.encoding is Encoding.TEXT:
        return fields.body.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(fields.body, validate=True)
    except ValueError as error:
        raise LogError(f"not an exported entry: body is not base64 ({error})") from error
