"""Log lines for every request: thousands a second, in the form of all others at a tenth of their cost.

A line of structlog takes 30 to 50 us, which is half of what relaying a small request takes. These are collected, and
rendered and written together (side by side that takes half of the time): by `flush`, or when there are enough. What
was not flushed when the process is killed is lost.
"""

import time
from datetime import UTC, datetime
from typing import Final

import msgspec

from appliance.telemetry import logging as telemetry

_BATCH: Final = 128
"""Lines that wait; then they are written at once, so that this is the bound. Takes about half a millisecond."""

_EVENT_WIDTH: Final = 28
_encode_lines: Final = msgspec.json.Encoder().encode_lines


class RequestLine(msgspec.Struct, kw_only=True, gc=False):
    """What every line has, in the order and under the names of structlog's; a subclass adds its fields in front.

    Its plane is the subclass's tag: ``tag_field="plane", tag="lb"``. ``time`` is `RequestLines.now`. What is UNSET is
    left out.
    """

    level: str = "info"
    time: str
    message: str


_COMMON: Final = frozenset(RequestLine.__struct_fields__)


class RequestLines:
    """Lines at info level. Ask ``enabled`` before making one: it is false while the level leaves them out.

    ``enabled`` is as it was at the last `flush`; whoever makes lines flushes them many times a minute.
    """

    def __init__(self) -> None:
        self.enabled = _target() is not None
        self._lines: list[RequestLine] = []
        self._second = -1
        self._prefix = ""

    def now(self) -> str:
        """ISO 8601 in UTC with microseconds, as structlog's; the second is rendered once."""
        at = time.time()
        second = int(at)
        if second != self._second:
            self._second = second
            self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._prefix}.{int((at - second) * 1e6):06d}Z"

    def write(self, line: RequestLine) -> None:
        """One line, which is written with one of the next flushes."""
        lines = self._lines
        lines.append(line)
        if len(lines) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        lines, self._lines = self._lines, []
        target = _target()
        self.enabled = target is not None
        if lines and target is not None:
            target.stream.write(_encode_lines(lines).decode() if target.json else "".join(map(_as_text, lines)))
            target.stream.flush()


def _target() -> telemetry.LogTarget | None:
    target = telemetry.current_target()
    return target if target is not None and target.shows_info else None


def _as_text(line: RequestLine) -> str:
    names = zip(line.__struct_encode_fields__, line.__struct_fields__, strict=True)
    values = [(shown, getattr(line, name)) for shown, name in names if name not in _COMMON]
    shown = " ".join([f"{name}={_text(value)}" for name, value in values if value is not msgspec.UNSET])
    return f"{line.time} [{line.level:<9}] {line.message:<{_EVENT_WIDTH}} plane={line.__struct_config__.tag} {shown}\n"


def _text(value: object) -> str:
    text = str(value)
    plain = not isinstance(value, str) or (text.isprintable() and text and " " not in text and "=" not in text)
    return text if plain else repr(text)
