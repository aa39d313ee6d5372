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
_encode: Final = msgspec.json.Encoder().encode


class RequestLines:
    """Lines at info level. Nothing is done, and `enabled` is false, while the level leaves them out."""

    def __init__(self, plane: str) -> None:
        self._plane = plane
        self._lines: list[tuple[float, str, msgspec.Struct]] = []
        self._second = -1
        self._prefix = ""

    @property
    def enabled(self) -> bool:
        """Whether `write` has any effect: ask before making the fields."""
        target = telemetry.current_target()
        return target is not None and target.shows_info

    def write(self, event: str, fields: msgspec.Struct) -> None:
        """One line, for who asked `enabled`, written with one of the next flushes.

        ``event`` is a constant; what is UNSET is left out.
        """
        self._lines.append((time.time(), event, fields))
        if len(self._lines) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        lines, self._lines = self._lines, []
        target = telemetry.current_target()
        if lines and target is not None and target.shows_info:
            render = self._as_json if target.json else self._as_text
            target.stream.write("".join([render(*line) for line in lines]))
            target.stream.flush()

    def _as_json(self, at: float, event: str, fields: msgspec.Struct) -> str:
        own = _encode(fields).decode()[1:-1]
        return f'{{"plane":"{self._plane}",{own},"level":"info","time":"{self._time(at)}","message":"{event}"}}\n'

    def _as_text(self, at: float, event: str, fields: msgspec.Struct) -> str:
        names = zip(fields.__struct_encode_fields__, fields.__struct_fields__, strict=True)
        values = [(shown, getattr(fields, name)) for shown, name in names]
        shown = " ".join([f"{name}={_text(value)}" for name, value in values if value is not msgspec.UNSET])
        return f"{self._time(at)} [info     ] {event:<{_EVENT_WIDTH}} plane={self._plane} {shown}\n"

    def _time(self, at: float) -> str:
        """ISO 8601 in UTC with microseconds, as structlog's; the second is rendered once."""
        second = int(at)
        if second != self._second:
            self._second = second
            self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._prefix}.{int((at - second) * 1e6):06d}Z"


def _text(value: object) -> str:
    text = str(value)
    plain = not isinstance(value, str) or (text.isprintable() and text and " " not in text and "=" not in text)
    return text if plain else repr(text)
