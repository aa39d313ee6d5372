"""A client's bytes to answers: calls one by one and in batches, subscriptions where there is a websocket."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec
import trio

from appliance.domain.errors import DecodeError, UnavailableError
from appliance.providers.group import NO_ENDPOINT, Group
from appliance.providers.retry import is_read
from appliance.providers.subscriptions import Subject, parse_subject, parse_unsubscribe
from appliance.wire.jsonrpc import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    RESPONSE_TOO_LARGE,
    Request,
    RequestError,
    Response,
    decode_batch,
    decode_request,
    encode_batch,
    encode_error,
    encode_result,
    is_batch,
)

MAX_BATCH: Final = 1000
MAX_BATCH_RESPONSE: Final = 64 * 1024 * 1024
"""Calls in a batch as in go-ethereum; of its answers, more than this many bytes are not held in memory."""
AT_A_TIME: Final = 16
"""Reads of one batch that run side by side. A batch that also writes runs in order: nonces follow one another."""
NO_NOTIFICATIONS: Final = "notifications not supported over HTTP: connect to ws:// at the same address"


class Subscriber(Protocol):
    """The websocket client that a message came from."""

    async def subscribe(self, subject: Subject) -> str:
        """The id. Raises UnavailableError."""

    def unsubscribe(self, identifier: str) -> bool:
        """False when there is no such subscription."""


class Frontend:
    """Answers messages with the endpoints of one group."""

    def __init__(self, group: Group) -> None:
        self._group = group

    async def answer(self, body: bytes, subscriber: Subscriber | None = None) -> bytes:
        """The answer's bytes; none at all for notifications. ``subscriber`` is None over HTTP."""
        try:
            if is_batch(body):
                return encode_batch(await self._batch(decode_batch(body, limit=MAX_BATCH), subscriber))
            request = decode_request(body)
        except RequestError as error:
            return encode_error(error.identifier, error.code, str(error))
        return await self._one(request, subscriber)

    async def _one(self, request: Request, subscriber: Subscriber | None) -> bytes:
        identifier = bytes(request.id)
        try:
            answer = await self._call(request, identifier, subscriber)
        except RequestError as error:
            answer = encode_error(identifier, error.code, str(error))
        except UnavailableError as error:
            answer = encode_error(identifier, NO_ENDPOINT, str(error))
        return b"" if request.is_notification else answer

    async def _call(self, request: Request, identifier: bytes, subscriber: Subscriber | None) -> bytes:
        params = bytes(request.params)
        try:
            params.decode()  # HTTP brings any bytes, and a websocket to an endpoint takes UTF-8 alone
        except UnicodeDecodeError as error:
            raise RequestError(PARSE_ERROR, f"parse error: params: {error}") from None
        match request.method:
            case "eth_subscribe":
                return await self._subscribe(identifier, params, subscriber)
            case "eth_unsubscribe":
                return self._unsubscribe(identifier, params, subscriber)
            case _:
                return _under(identifier, await self._group.call(request.method, params))

    async def _subscribe(self, identifier: bytes, params: bytes, subscriber: Subscriber | None) -> bytes:
        if subscriber is None:
            raise RequestError(METHOD_NOT_FOUND, NO_NOTIFICATIONS)
        try:
            subject = parse_subject(params)
        except DecodeError as error:
            raise RequestError(INVALID_PARAMS, str(error)) from None
        return encode_result(identifier, msgspec.json.encode(await subscriber.subscribe(subject)))

    def _unsubscribe(self, identifier: bytes, params: bytes, subscriber: Subscriber | None) -> bytes:
        if subscriber is None:
            raise RequestError(METHOD_NOT_FOUND, NO_NOTIFICATIONS)
        try:
            wanted = parse_unsubscribe(params)
        except DecodeError as error:
            raise RequestError(INVALID_PARAMS, str(error)) from None
        if not subscriber.unsubscribe(wanted):
            raise RequestError(INVALID_PARAMS, f"no subscription {wanted[:80]}")
        return encode_result(identifier, b"true")

    async def _batch(self, elements: list[msgspec.Raw], subscriber: Subscriber | None) -> list[bytes]:
        answers: list[bytes] = [b""] * len(elements)
        room = [MAX_BATCH_RESPONSE]

        async def answer(index: int) -> None:
            answers[index] = await self._element(elements[index], subscriber, room[0])
            room[0] -= len(answers[index])

        width = AT_A_TIME if all(map(_reads, elements)) else 1
        await _side_by_side(len(elements), width, answer)
        return [each for each in answers if each]

    async def _element(self, element: msgspec.Raw, subscriber: Subscriber | None, room: int) -> bytes:
        try:
            request = decode_request(element)
        except RequestError as error:
            return encode_error(error.identifier, error.code, str(error))
        if room <= 0:
            return encode_error(bytes(request.id), RESPONSE_TOO_LARGE, "the answers of this batch are too large")
        return await self._one(request, subscriber)


async def _side_by_side(count: int, width: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Call ``work`` with 0 to ``count`` - 1, ``width`` at a time, begun in this order."""
    numbers = iter(range(count))

    async def take_turns() -> None:
        for number in numbers:
            await work(number)

    async with trio.open_nursery() as nursery:
        for _ in range(min(width, count)):
            nursery.start_soon(take_turns)


def _reads(element: msgspec.Raw) -> bool:
    try:
        return is_read(decode_request(element).method)
    except RequestError:
        return True  # it is answered here


def _under(identifier: bytes, response: Response) -> bytes:
    """An endpoint's answer under the client's id."""
    if bytes(response.error) not in {b"", b"null"}:
        return b"".join((b'{"jsonrpc":"2.0","id":', identifier or b"null", b',"error":', response.error, b"}"))
    return encode_result(identifier, response.result)
