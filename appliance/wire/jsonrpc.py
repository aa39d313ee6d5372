"""JSON-RPC 2.0 messages: only what a multiplexer has to look at; everything else stays the bytes that came.

An id may be a string, a number or null and goes back as it came (`msgspec.Raw`). A request without an id
is a notification and gets no answer of ours.
"""

from typing import Final

import msgspec

from appliance.domain.errors import DecodeError, RemoteError

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
RESPONSE_TOO_LARGE: Final = -32003  # go-ethereum's code for a batch whose answers outgrow its limit

NULL_ID: Final = b"null"

# What msgspec raises for bytes that are not JSON of the wanted shape. Nesting deeper than the
# interpreter's recursion limit is a RecursionError, and it is the sender's fault all the same.
MALFORMED: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class RequestError(RemoteError):
    """A request that cannot be dispatched; ``code`` and ``identifier`` go into its answer."""

    def __init__(self, code: int, text: str, identifier: bytes = b"null") -> None:
        super().__init__(text)
        self.code = code
        self.identifier = identifier


class Request(msgspec.Struct, frozen=True):
    """One call. ``id`` is empty bytes for a notification; ``params`` is empty bytes where absent."""

    method: str
    id: msgspec.Raw = msgspec.Raw(b"")
    params: msgspec.Raw = msgspec.Raw(b"")

    @property
    def is_notification(self) -> bool:
        """No `id` at all: an id of null is still an id."""
        return not bytes(self.id)


class RpcError(msgspec.Struct, frozen=True):
    """The `error` member of an answer."""

    code: int
    message: str = ""


class Response(msgspec.Struct, frozen=True):
    """One answer; of ``result`` and ``error`` the one that did not come is empty bytes."""

    id: msgspec.Raw = msgspec.Raw(NULL_ID)
    result: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


class _Identified(msgspec.Struct, frozen=True):
    """The id alone, of something that is not a call but wants an answer all the same."""

    id: msgspec.Raw = msgspec.Raw(NULL_ID)


_request_decoder = msgspec.json.Decoder(Request)
_response_decoder = msgspec.json.Decoder(Response)
_identified_decoder = msgspec.json.Decoder(_Identified)
_batch_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def is_batch(body: bytes) -> bool:
    """Whether the first byte that is not white space opens an array."""
    return body[:64].lstrip(b" \t\r\n")[:1] == b"["


def decode_request(body: bytes | msgspec.Raw) -> Request:
    """One call; raises RequestError (-32700 not JSON, -32600 not a call)."""
    try:
        return _request_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(INVALID_REQUEST, f"invalid request: {error}", _identifier_of(body)) from None
    except MALFORMED as error:
        raise RequestError(PARSE_ERROR, f"parse error: {error}") from None


def _identifier_of(body: bytes | msgspec.Raw) -> bytes:
    try:
        return bytes(_identified_decoder.decode(body).id)
    except MALFORMED:
        return NULL_ID


def decode_batch(body: bytes, *, limit: int) -> list[msgspec.Raw]:
    """The elements of a batch, each still to be decoded; raises RequestError, also when empty or too long."""
    try:
        elements = _batch_decoder.decode(body)
    except MALFORMED as error:
        raise RequestError(PARSE_ERROR, f"parse error: {error}") from None
    if not elements:
        raise RequestError(INVALID_REQUEST, "empty batch")
    if len(elements) > limit:
        raise RequestError(INVALID_REQUEST, f"batch of {len(elements)} calls; at most {limit} are taken")
    return elements


def decode_response(body: bytes) -> Response:
    """One answer; raises DecodeError."""
    try:
        return _response_decoder.decode(body)
    except MALFORMED as error:
        raise DecodeError(f"not a JSON-RPC answer: {error}") from None


def encode_request(identifier: bytes, method: str, params: bytes) -> bytes:
    """A call with ``params`` as ready JSON. An empty ``identifier`` makes a notification."""
    head = b'"id":%b,' % identifier if identifier else b""
    return b'{"jsonrpc":"2.0",%b"method":%b,"params":%b}' % (head, msgspec.json.encode(method), params)


def encode_result(identifier: bytes, result: bytes | msgspec.Raw) -> bytes:
    """An answer around ``result`` as ready JSON, which is copied once."""
    return b"".join((b'{"jsonrpc":"2.0","id":', identifier or NULL_ID, b',"result":', result, b"}"))


def readdress(body: bytes, identifier: bytes) -> bytes:
    """An answer under another id; the very same bytes where it has that id already. Raises DecodeError."""
    answer = decode_response(body)
    if bytes(answer.id) == identifier:
        return body
    if bytes(answer.error) not in {b"", NULL_ID}:
        return b"".join((b'{"jsonrpc":"2.0","id":', identifier or NULL_ID, b',"error":', answer.error, b"}"))
    return encode_result(identifier, answer.result)


def encode_error(identifier: bytes, code: int, message: str, data: bytes = b"") -> bytes:
    """An error answer; ``data`` is ready JSON, or empty for none."""
    tail = b',"data":' + data if data else b""
    head = b'{"jsonrpc":"2.0","id":%b,"error":{"code":%d,"message":' % (identifier or NULL_ID, code)
    return b"".join((head, msgspec.json.encode(message), tail, b"}}"))


def encode_batch(answers: list[bytes]) -> bytes:
    """Answers as one array, in their order; no bytes at all when there is nothing to answer."""
    return b"".join((b"[", b",".join(answers), b"]")) if answers else b""
