"""`appliance tail`: follow the flashblock stream in a terminal, across reconnects, without a gap or a repeat."""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import msgspec
import trio
from rich.console import Console
from rich.text import Text

from appliance.domain.errors import ApplianceError, ConfigError, DecodeError, UnavailableError
from appliance.domain.flashblocks import Encoding, EndOfPayload, Flashblock
from appliance.domain.payloads import PayloadId
from appliance.net.backoff import Backoff
from appliance.net.errors import WebsocketRefused
from appliance.net.websocket_client import Inbox, messages
from appliance.wire.flashblock import decode, plain_text

DEFAULT_STREAM: Final = "ws://127.0.0.1:1112/ws"

_PING_INTERVAL_S = 10.0
_PONG_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 5.0
_SILENCE_S = 3.0
_GONE = 410
_TOO_MANY = 429
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_AFTER = re.compile(r"(?P<block>[0-9]+)(?::(?P<index>[0-9]+))?")


def tail(arguments: argparse.Namespace) -> int:
    """Print one line for each flashblock until Ctrl-C or ``--count``."""
    place = Place.parse(arguments.after)
    show = _raw if arguments.raw else _Lines(Console(highlight=False)).show
    trio.run(_follow, Streams(arguments.url or [DEFAULT_STREAM]), place, show, arguments.count)
    return 0


@dataclass(slots=True)
class Place:
    """Where the next connection resumes: strictly after an entry; nowhere means at the head.

    Once a flashblock was shown its payload names the place: a block number may come twice.
    """

    block_number: int | None = None
    index: int | None = None
    payload_id: PayloadId | None = None

    @classmethod
    def parse(cls, text: str | None) -> "Place":
        """From ``BLOCK`` or ``BLOCK:INDEX``. Raises ConfigError."""
        if text is None:
            return cls()
        match = _AFTER.fullmatch(text)
        if match is None:
            raise ConfigError(f"--after {text}: expected BLOCK or BLOCK:INDEX, as 35535698:1")
        index = match["index"]
        return cls(int(match["block"]), None if index is None else int(index))

    def url(self, stream: str) -> str:
        """The stream's URL with the resume parameters of this place."""
        query: dict[str, int | str] = {}
        if self.payload_id is not None:
            query["payload_id"] = self.payload_id
        if self.block_number is not None:
            query["block_number"] = self.block_number
        if not query:
            return stream
        if self.index is not None:
            query["flashblock_index"] = self.index
        return f"{stream}{'&' if '?' in stream else '?'}{urlencode(query)}"

    def passed(self, flashblock: Flashblock) -> None:
        """The flashblock was shown: the next connection goes on after it."""
        if flashblock.block_number is not None or flashblock.payload_id != self.payload_id:
            self.block_number = flashblock.block_number
        self.payload_id, self.index = flashblock.payload_id, flashblock.index

    def give_up_payload(self) -> bool:
        """Another host may not hold the payload: go on by block number. False when there is nothing to give up."""
        known = self.payload_id is not None and self.block_number is not None
        self.payload_id = None
        return known


Show = Callable[[Flashblock], None]


class Streams:
    """The hosts that serve the same stream; one of them is connected to, the next one when it fails."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._index = 0

    def __repr__(self) -> str:
        return f"<Streams {self.url}, {len(self._urls)} in all>"

    @property
    def url(self) -> str:
        """Of the host whose turn it is."""
        return self._urls[self._index]

    def go_on(self) -> bool:
        """To the next one; whether each has failed now since the first had its turn."""
        self._index = (self._index + 1) % len(self._urls)
        return self._index == 0


async def _follow(streams: Streams, place: Place, show: Show, count: int | None) -> None:
    outages = _Outages()
    backoff = Backoff()
    shown = 0
    while count is None or shown < count:
        try:
            async with _connect(place.url(streams.url)) as connection:
                outages.over(streams.url)
                message = await _first(connection)
                while True:
                    backoff.reset()
                    shown += _accept(*message, place, show)
                    if shown == count:
                        return
                    message = await anext(connection)
        except WebsocketRefused as error:
            if error.status == _GONE and place.give_up_payload():
                continue
            if error.status < 500 and error.status != _TOO_MANY:
                raise ApplianceError(f"{streams.url}: {_message(error.text)} (HTTP {error.status})") from error
            outages.begin(error, is_last=streams.go_on())
        except UnavailableError as error:
            outages.begin(error, is_last=streams.go_on())
        await trio.sleep(backoff.next())


class _Outages:
    """Says an outage once. No first connection to any host is none: nothing is there, and that is an error."""

    def __init__(self) -> None:
        self._connected_once = False
        self._said = False

    def begin(self, error: UnavailableError, *, is_last: bool) -> None:
        """A connection failed or ended; ``is_last`` when there is no other host that was not tried yet."""
        if not self._connected_once and is_last:
            raise error
        if not self._said:
            _note(f"{error}; trying again")
        self._said = True

    def over(self, url: str) -> None:
        """Connected."""
        if self._said:
            _note(f"connected to {url}")
        self._connected_once, self._said = True, False


async def _first(connection: Inbox) -> tuple[bytes, bool]:
    with trio.move_on_after(_SILENCE_S):
        return await anext(connection)
    _note("connected; no flashblock has come yet")
    return await anext(connection)


def _connect(url: str) -> AbstractAsyncContextManager[Inbox]:
    return messages(
        url,
        ping_interval_s=_PING_INTERVAL_S,
        pong_timeout_s=_PONG_TIMEOUT_S,
        connect_timeout_s=_CONNECT_TIMEOUT_S,
        max_message_bytes=_MAX_MESSAGE_BYTES,
    )


def _message(text: str) -> str:
    """What the server says in words, where its answer is the usual `{"message": …}`."""
    try:
        return msgspec.json.decode(text, type=_Refusal).message
    except msgspec.DecodeError:
        return text


class _Refusal(msgspec.Struct):
    message: str


def _accept(body: bytes, is_binary: bool, place: Place, show: Show) -> int:
    """Show one message; how many flashblocks it was."""
    try:
        flashblock = decode(body, Encoding.BROTLI if is_binary else Encoding.TEXT)
    except DecodeError as error:
        _note(f"not a flashblock: {error}")
        return 0
    if isinstance(flashblock, EndOfPayload):
        return 0
    show(flashblock)
    place.passed(flashblock)
    return 1


def _note(text: str) -> None:
    print(f"appliance: {text}", file=sys.stderr)


def _raw(flashblock: Flashblock) -> None:
    print(plain_text(flashblock.body, flashblock.encoding).decode(), flush=True)


class _Lines:
    """One readable line a flashblock; a rule between blocks and a word about any gap."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[int | None, int] | None = None
        self._at = 0.0

    def show(self, flashblock: Flashblock) -> None:
        now = time.time()
        self._console.print(line(flashblock, now, now - self._at if self._last else None), soft_wrap=True)
        self._last, self._at = (flashblock.block_number, flashblock.index), now


def line(flashblock: Flashblock, now: float, since_last_s: float | None) -> Text:
    """The line for one flashblock, received at ``now`` (Unix seconds)."""
    text = Text(time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}", style="dim")
    number = "?" if flashblock.block_number is None else str(flashblock.block_number)
    text.append(f"  {number}", style="bold cyan" if flashblock.index == 0 else "cyan")
    text.append(f"  #{flashblock.index:<2}", style="bold" if flashblock.index == 0 else "")
    if flashblock.diff is not None:
        text.append(f"  {len(flashblock.diff.transactions):>3} tx")
        text.append(f"  {int(flashblock.diff.gas_used, 16):>11,} gas")
        text.append(f"  {flashblock.diff.block_hash[:10]}…{flashblock.diff.block_hash[-4:]}", style="green")
    text.append(f"  {len(flashblock.body) / 1000:>7.1f} kB")
    if since_last_s is not None:
        text.append(f"  +{since_last_s * 1000:,.0f} ms", style="dim")
    return text
