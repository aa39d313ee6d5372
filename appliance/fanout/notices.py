"""Control messages for those who asked for them (`?control=1`): what became of payloads, how they stand. Pure.

A notice is a text message of its own, whole, between two others. It is never part of the stream: it moves no mark, and
a subscriber that leaves all of them out has exactly the stream without `?control=1`. What became of a payload is said
behind the payload's last flashblock, however late a subscriber gets that, at most once on a connection and in the
order in which it happened. The newest `HISTORY` of them are kept, for those who catch up and those who come back.
"""

import itertools
import json
from collections import deque
from dataclasses import dataclass
from typing import Final

from appliance.domain.payloads import PayloadId, PayloadState
from appliance.domain.positions import AfterPayload, CurrentPayload, Resume
from appliance.fanout.frames import Opcode, frame

HISTORY: Final = 256
"""About as many payloads: four minutes of 1 s blocks. Who is further behind is told of the later ones only."""

REPEATED: Final = 8
"""Payloads before the place from which somebody resumes: their fate may have been said while it was away."""

TOLD: Final = frozenset({PayloadState.LANDED, PayloadState.DROPPED})


def fate(payload_id: PayloadId, state: PayloadState, block_number: int | None, block_hash: str | None) -> bytes:
    """The frame that says what became of a payload: `landed` or `dropped`."""
    more = {} if block_hash is None else {"block_hash": block_hash}
    return _message(state.value, payload_id=payload_id, block_number=block_number, **more)


def resumed_from(resume: Resume, behind: int) -> bytes:
    """The frame that says first of all where the stream goes on: after what, and how many positions behind the head."""
    payload_id = resume.payload_id if isinstance(resume, AfterPayload) else None
    block_number = None if isinstance(resume, CurrentPayload) else resume.block_number
    index = None if isinstance(resume, CurrentPayload) or resume.index < 0 else resume.index
    place = {"payload_id": payload_id, "block_number": block_number, "flashblock_index": index}
    return _message("resumed-from", **place, behind=behind)


def lagging(behind: int, closed_beyond: int) -> bytes:
    """The frame that says that a subscriber is half as far behind as it may be."""
    return _message("lagging", behind=behind, closed_beyond=closed_beyond)


def _message(control: str, **fields: object) -> bytes:
    return frame(Opcode.TEXT, json.dumps({"control": control, **fields}, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True)
class Notice:
    """A frame for everybody who has been handed everything up to ``position``."""

    position: int
    frame: bytes


class Board:
    """What happened lately, numbered from 1. When it is full the oldest goes."""

    def __init__(self, size: int = HISTORY) -> None:
        self._notices: deque[Notice] = deque(maxlen=size)
        self.newest = 0

    def post(self, notice: Notice) -> None:
        """Make known what happened."""
        self._notices.append(notice)
        self.newest += 1

    @property
    def last_position(self) -> int:
        """The position of the newest notice; 0 when there is none."""
        return self._notices[-1].position if self._notices else 0

    def next_after(self, number: int) -> tuple[int, Notice] | None:
        """The first one after a number that is still here, and its own number."""
        oldest = self.newest - len(self._notices) + 1
        wanted = max(number + 1, oldest)
        return None if wanted > self.newest else (wanted, self._notices[wanted - oldest])

    def place_of(self, position: int) -> int:
        """The number before the first notice that is about ``position`` or what follows."""
        passed = itertools.takewhile(lambda notice: notice.position < position, self._notices)
        return self.newest - len(self._notices) + sum(1 for _ in passed)


class Notices:
    """What one subscriber is to be told: its own messages, at most two, and its place on the board."""

    __slots__ = ("_board", "_lagging", "_own", "_told")

    def __init__(self, board: Board, resume: Resume, position: int, behind: int) -> None:
        """``position`` is where the stream goes on. Who resumes is told again what it may have missed."""
        fresh = isinstance(resume, CurrentPayload)
        self._board = board
        self._told = board.newest if fresh else max(0, board.place_of(position) - REPEATED)
        self._own = resumed_from(resume, behind)
        self._lagging = False

    def take(self, position: int) -> bytes:
        """The frames that are due for one that has been handed everything up to ``position``; each only once."""
        data, self._own = self._own, b""
        while (found := self._board.next_after(self._told)) is not None and found[1].position <= position:
            self._told = found[0]
            data += found[1].frame
        return data

    def lag(self, behind: int, allowed: int) -> None:
        """Say that it lags, if it lags by more than half of what is allowed; once until it has caught up."""
        if not self._lagging and 2 * behind > allowed:
            self._lagging = True
            self._own += lagging(behind, allowed)

    def caught_up(self) -> None:
        """From now on lagging is news again."""
        self._lagging = False
