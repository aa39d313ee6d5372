"""JSON-RPC over one websocket connection: answers find their calls by id, notifications their subscriptions."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from appliance.domain.errors import DecodeError, UnavailableError
from appliance.net.errors import BadResponse, ConnectionBroken
from appliance.net.websocket_client import Message, Send
from appliance.wire.jsonrpc import MALFORMED, NULL_ID, Response, encode_request

Sink = Callable[[bytes], None]
"""Gets the result of each notification, as JSON."""

# Notifications that come right behind the answer to their eth_subscribe find their sink: the reader itself puts it up.
_NOTIFICATION: Final = "eth_subscription"


class NotSent(UnavailableError):
    """The call did not leave: it may go elsewhere, whatever it is."""


class _Params(msgspec.Struct):
    subscription: str
    result: msgspec.Raw


class _Incoming(msgspec.Struct):
    """An answer or a notification; of an answer's id only numbers are ours."""

    id: int | str | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


_incoming_decoder = msgspec.json.Decoder(_Incoming)
_params_decoder = msgspec.json.Decoder(_Params)


@dataclass(slots=True)
class _Waiting:
    sink: Sink | None = None
    response: Response | None = None
    done: trio.Event = field(default_factory=trio.Event)


class WebsocketRpc:
    """The calls on one connection. It has no deadlines: the callers' scopes do."""

    def __init__(self, send: Send, origin: str) -> None:
        self._send = send
        self._origin = origin
        self._next_id = 1
        self._waiting: dict[int, _Waiting] = {}  # as many as callers wait; who gives up takes its entry away
        self._sinks: dict[str, Sink] = {}

    def __repr__(self) -> str:
        return f"<WebsocketRpc {self._origin}, {len(self._waiting)} calls, {len(self._sinks)} subscriptions>"

    async def call(self, method: str, params: bytes, sink: Sink | None = None) -> Response:
        """The answer. Raises NotSent, or ConnectionBroken when the connection ends before the answer came.

        A frame that could not be written whole is none to the other side.
        """
        identifier, self._next_id = self._next_id, self._next_id + 1
        waiting = self._waiting[identifier] = _Waiting(sink)
        try:
            await self._write(encode_request(b"%d" % identifier, method, params))
            await waiting.done.wait()
        finally:
            del self._waiting[identifier]
        if waiting.response is None:
            raise ConnectionBroken(f"the websocket to {self._origin} ended before the answer")
        return waiting.response

    async def _write(self, message: bytes) -> None:
        try:
            await self._send(message.decode())
        except ConnectionBroken as error:
            raise NotSent(str(error)) from None

    def close(self) -> None:
        """The connection has ended: who waits for an answer gets none."""
        for waiting in self._waiting.values():
            waiting.done.set()

    async def subscribe(self, params: bytes, sink: Sink) -> str:
        """Subscribe; ``sink`` gets what comes from then on. The endpoint's id. Raises DecodeError when it refuses."""
        response = await self.call("eth_subscribe", params, sink)
        try:
            return msgspec.json.decode(response.result, type=str)
        except MALFORMED:
            raise DecodeError(f"{self._origin} took no subscription") from None

    async def unsubscribe(self, identifier: str) -> None:
        """No more of it is wanted."""
        self._sinks.pop(identifier, None)
        await self.call("eth_unsubscribe", msgspec.json.encode([identifier]))

    async def read(self, messages: AsyncIterator[Message]) -> None:
        """Hand out what comes, until the connection ends (which raises what ended it)."""
        async for message, _ in messages:
            self._take(message)

    def _take(self, message: bytes) -> None:
        try:
            incoming = _incoming_decoder.decode(message)
        except MALFORMED as error:
            raise BadResponse(f"{self._origin} sent no JSON-RPC: {error}") from None
        if incoming.method == _NOTIFICATION:
            self._notify(incoming.params)
        elif isinstance(incoming.id, int) and incoming.id in self._waiting:
            self._answer(self._waiting[incoming.id], incoming)

    def _notify(self, params: msgspec.Raw) -> None:
        try:
            notified = _params_decoder.decode(params)
        except MALFORMED:
            return
        sink = self._sinks.get(notified.subscription)
        if sink is not None:
            sink(bytes(notified.result))

    def _answer(self, waiting: _Waiting, incoming: _Incoming) -> None:
        waiting.response = Response(msgspec.Raw(NULL_ID), incoming.result, incoming.error)
        if waiting.sink is not None and bytes(incoming.result):
            with suppress(*MALFORMED):  # `subscribe` says so
                self._sinks[msgspec.json.decode(incoming.result, type=str)] = waiting.sink
        waiting.done.set()
