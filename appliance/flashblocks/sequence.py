"""The flashblock stream of all builders and recent builds, as a machine without I/O.

    build_started --> [round] <-- build_confirmed (the EL: VALID)      published = handed to the log
                         ^  ^---- builder_joined (payload id)
    flashblock --> early buffer, or the builder's stream in its round
                         |
        lead chosen --> Validate --> validated(VALID) --> Append --> appended --> ... next one
                         |  (structural mode: straight to Append)
    seal (getPayload) = fence: what was handed to the log is the block's promise; nothing is handed after

What an earlier process had shown and not seen the end of is judged by the head too (`recover`, unfinished.py).

A round is shown only while it is the newest one, confirmed by the EL and not fenced. One append and, per
round, one validation are under way at a time, so what waits can still be held back at the fence. The
shell calls an event method and then carries out `take_commands()`, in order.

When the same forkchoice_updated is sent again, builders answer the same payload id: the new build then
joins the older round (see `_merge`). Until that answer comes the older round is suspended, not closed.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from appliance.domain.assembled import AssembledPayload
from appliance.domain.flashblocks import Flashblock
from appliance.domain.payloads import BuildId, PayloadId, PayloadState, PayloadStatus
from appliance.flashblocks.assembly import assemble
from appliance.flashblocks.commands import (
    Append,
    Command,
    Dropped,
    Evidence,
    Fate,
    Fenced,
    Paused,
    Reason,
    Sealed,
    SetState,
    Validate,
)
from appliance.flashblocks.early import EarlyBuffer
from appliance.flashblocks.ports import Build
from appliance.flashblocks.round import Round
from appliance.flashblocks.stream import BuilderStream
from appliance.flashblocks.unfinished import Unfinished, UnfinishedPayloads

MAX_ROUNDS: Final = 16
"""Rounds remembered. An older one is forgotten; when its payload was shown and never landed, as dropped."""

VALIDATION_TRIES: Final = 3
"""How often the EL is asked about one flashblock while it answers neither VALID nor INVALID."""

RETRY_DELAY_S: Final = 0.1
"""Pause before the EL is asked again, in seconds."""


class FlashblockSequence:
    """The machine. Events are methods; what must be done about them comes from `take_commands`."""

    def __init__(self, *, execution: bool) -> None:
        self._execution = execution
        self._early = EarlyBuffer(whole=execution)
        self._rounds: list[Round] = []  # oldest first, at most MAX_ROUNDS
        self._current: Round | None = None
        self._builds: dict[BuildId, Round] = {}
        self._routes: dict[tuple[str, PayloadId], tuple[Round, BuilderStream]] = {}
        self._published: dict[PayloadId, Round] = {}
        self._validations: dict[int, tuple[Round, BuilderStream, int]] = {}
        self._last_validation_id = 0
        self._appending: Round | None = None
        self._commands: list[Command] = []
        self._unfinished = UnfinishedPayloads()
        self._head: tuple[str, int | None] | None = None
        self._fates = {PayloadState.LANDED: 0, PayloadState.DROPPED: 0}

    def take_commands(self) -> list[Command]:
        """What is to be done since the last call, in order."""
        commands, self._commands = self._commands, []
        return commands

    # Builds, as the engine sees them.

    def build_started(self, build: Build, now: float) -> None:
        """A build goes out; the one before it is suspended."""
        if build.build_id in self._builds:
            return
        self._commands += self._early.expire(now)
        while len(self._rounds) >= MAX_ROUNDS:
            self._forget(self._rounds.pop(0))
        ids = {build.build_id}
        started = Round(build.parent_hash.lower(), build.timestamp, build.builders, now, ids, set(ids))
        self._rounds.append(started)
        self._builds[build.build_id] = started
        self._current = started

    def build_confirmed(self, build_id: BuildId) -> None:
        """The EL builds it too, so it is a build that can land."""
        found = self._builds.get(build_id)
        if found is not None and build_id in found.live:
            found.confirmed.add(build_id)
            self._advance()

    def build_abandoned(self, build_id: BuildId) -> None:
        """The EL refused it, or a newer one replaced it. Suspended: the same build may be asked for again."""
        found = self._builds.get(build_id)
        if found is not None:
            found.live.discard(build_id)

    def builder_joined(self, build_id: BuildId, builder: str, payload_id: PayloadId) -> None:
        """``builder`` answered ``payload_id``: its flashblocks of that id are this build's."""
        joined = self._builds.get(build_id)
        if joined is None:
            return
        home = self._home_of(joined, payload_id)
        if home is not None and joined.owner is None and not joined.fenced:
            self._merge(joined, home)
            joined = home
        if builder not in joined.streams or joined.streams[builder].payload_id != payload_id:
            self._attach(joined, self._announced_stream(joined, builder, payload_id))
        self._advance()

    def seal(self, build_id: BuildId) -> AssembledPayload | None:
        """Fence the build's stream. Its block is that of what was handed to the log; the same when asked again."""
        found = self._builds.get(build_id)
        if found is None:
            return None
        if not found.fenced:
            payload_id = found.owner.payload_id if found.owner else None
            fenced = Fenced(found.since, tuple(found.streams), payload_id, found.handed, found.silence())
            self._commands.append(fenced)
        self._fence(found)
        return found.sealed

    def payload_returned(self, build_id: BuildId, block_hash: str, *, holds_all: bool = False) -> None:
        """getPayload was answered with this block; ``holds_all`` when it is what was shown under another hash."""
        found = self._builds.get(build_id)
        if found is not None:
            found.returned, found.returned_whole = block_hash.lower(), holds_all

    def head_changed(self, block_hash: str, block_number: int | None) -> None:
        """A block became head: what was shown has landed, or was dropped."""
        self._head = block_hash.lower(), block_number
        self._judge_unfinished()
        for known in self._rounds:
            outcome = known.judge(block_hash.lower(), block_number) if known.is_undecided else None
            if outcome is not None:
                self._fence(known)
                self._set_state(known, outcome, block_hash if outcome is PayloadState.LANDED else None)

    def recover(self, payloads: Iterable[Unfinished]) -> None:
        """What the log holds of an earlier process, and what became of it is not known."""
        self._unfinished.add(payloads)
        self._judge_unfinished()

    def _judge_unfinished(self) -> None:
        if self._head is None:
            return
        for payload, outcome in self._unfinished.judge(*self._head):
            block_hash = payload.block_hash if outcome is PayloadState.LANDED else None
            self._record(payload.payload_id, outcome, payload.block_number, block_hash)

    # What builders send, and the answers to our commands.

    def flashblock(self, builder: str, flashblock: Flashblock, now: float) -> None:
        """A flashblock came in over ``builder``'s connection."""
        self._commands += self._early.expire(now)
        route = self._routes.get((builder, flashblock.payload_id))
        if route is None:
            self._commands += self._early.add(builder, flashblock, now)
        elif route[0].fenced:
            route[1].note_late(flashblock)
            self._drop(Reason.LATE, route[1], flashblock.index)
        else:
            self._take(*route, flashblock, now)
            self._advance()

    def validated(self, validation_id: int, status: PayloadStatus | None) -> None:
        """The EL's verdict on a Validate; None when it gave no answer."""
        known, stream, count = self._validations.pop(validation_id)
        known.validation_id = None
        if stream is known.lead and not known.fenced:
            self._judge(known, stream, count, status)
        self._advance()

    def appended(self) -> None:
        """The flashblock of the last Append is on disk."""
        if self._appending is not None:
            self._appending.logged += 1
        self._appending = None
        self._advance()

    def append_failed(self, reason: Reason) -> None:
        """The log did not take the flashblock of the last Append: nobody was shown it."""
        failed, self._appending = self._appending, None
        if failed is not None and failed.owner is not None:
            self._undo_append(failed, failed.owner, reason)
        self._advance()

    # What others may ask.

    def is_building(self, builder: str) -> bool:
        """Whether flashblocks of ``builder`` are to be expected now."""
        current = self._current
        return current is not None and not current.fenced and bool(current.live) and builder in current.streams

    def statistics(self) -> dict[str, object]:
        """Where the stream stands, as JSON-able values."""
        current = self._current
        owner = current.owner if current else None
        return {
            "payload_id": owner.payload_id if owner else None,
            "builder": owner.builder if owner else None,
            "block_number": current.block_number if current else None,
            "published": current.logged if current else 0,
            "fenced": current.fenced if current else False,
            "paused": current.paused if current else None,
            "rounds": len(self._rounds),
            "early_flashblocks": len(self._early),
            "validating": len(self._validations),
            "appending": self._appending is not None,
            "landed": self._fates[PayloadState.LANDED],
            "dropped": self._fates[PayloadState.DROPPED],
            "unfinished": len(self._unfinished),
        }

    # Joining.

    def _home_of(self, joined: Round, payload_id: PayloadId) -> Round | None:
        """The newest other round that already builds this payload, if the build is that one asked for again.

        A round that was fenced before anything was shown is no home: the payload can still be shown.
        """
        for known in reversed(self._rounds):
            same = known is not joined and known.is_same_build(joined) and known.has_payload(payload_id)
            if same and (known.owner is not None or not known.fenced):
                return known
        return None

    def _merge(self, joined: Round, home: Round) -> None:
        """Make ``joined``, of which nothing was shown, and the older ``home`` one round."""
        for build_id in joined.builds:
            self._builds[build_id] = home
        home.builds |= joined.builds
        home.live |= joined.live
        home.confirmed |= joined.confirmed
        if joined.returned:
            home.returned, home.returned_whole = joined.returned, joined.returned_whole
        self._rounds.remove(joined)
        self._rounds.remove(home)
        self._rounds.append(home)
        for stream in joined.streams.values():
            self._attach(home, stream)
        if self._current is joined:
            self._current = home

    def _announced_stream(self, joined: Round, builder: str, payload_id: PayloadId) -> BuilderStream:
        stream = self._early.pop(builder, payload_id)
        if stream is None:
            stream = BuilderStream(builder, payload_id, whole=self._execution)
        was_refused = stream.refused
        stream.bind(joined.parent_hash, joined.timestamp)
        if stream.refused is not was_refused:
            self._pause(Reason.WRONG_BUILD, joined, stream, index=0)
        return stream

    def _attach(self, joined: Round, stream: BuilderStream) -> None:
        """Give the round a builder's stream. A builder that answers another id later replaces its own, not
        the owner's."""
        existing = joined.streams.get(stream.builder)
        if existing is not None and existing is joined.owner:
            return
        if existing is not None:
            self._routes.pop((existing.builder, existing.payload_id), None)
            joined.lead = None if existing is joined.lead else joined.lead
        joined.streams[stream.builder] = stream
        self._routes[stream.builder, stream.payload_id] = (joined, stream)
        if joined.fenced and stream.flashblocks:
            self._drop(Reason.LATE, stream, 0, len(stream.flashblocks))
            stream.flashblocks.clear()

    # Taking, validating, publishing.

    def _take(self, known: Round, stream: BuilderStream, flashblock: Flashblock, now: float) -> None:
        notes = stream.take_and_tell(flashblock, now, published=stream is known.owner)
        self._commands += notes
        # Once per stream, because it takes no more. A key that is not on disk yet could still be filled by it.
        is_second_body = stream.refused is Reason.EQUIVOCATION and len(notes) > 1
        if is_second_body and stream is known.owner and flashblock.index < known.logged:
            self._commands.append(Evidence(flashblock, stream.builder))
        if not notes and known is not self._current:
            # It is kept all the same: the build may be asked for again.
            self._drop(Reason.REPLACED, stream, flashblock.index)

    def _advance(self) -> None:
        """Do what can be done next for the current round."""
        current = self._current
        if current is None or not current.is_open:
            return
        if current.owner is None and current.lead is not None and not self._may_publish(current, current.lead):
            current.lead = None  # chosen before another round showed this payload id
        free = [stream for stream in current.streams.values() if self._may_publish(current, stream)]
        current.choose_lead(free)
        if current.lead is not None:
            self._validate_next(current, current.lead)
            self._append_next(current, current.lead)

    def _may_publish(self, known: Round, stream: BuilderStream) -> bool:
        """Never two bodies for a key: a payload id that another round has shown is taken."""
        return self._published.get(stream.payload_id, known) is known

    def _validate_next(self, known: Round, lead: BuilderStream) -> None:
        count = lead.validated + 1
        if not self._execution or known.validation_id is not None or count > len(lead.flashblocks):
            return
        payload = lead.asked = assemble(lead.flashblocks[:count], builder=lead.builder, begun=lead.valid)
        if payload is None:  # streams refuse that already; here it must not stop the engine's calls
            self._refuse(known, lead, Reason.DIFF_MISSING)
            return
        self._last_validation_id += 1
        known.validation_id = self._last_validation_id
        self._validations[known.validation_id] = (known, lead, count)
        delay_s = RETRY_DELAY_S if lead.tries else 0.0
        self._commands.append(Validate(known.validation_id, payload, delay_s))

    def _judge(self, known: Round, lead: BuilderStream, count: int, status: PayloadStatus | None) -> None:
        if status is PayloadStatus.VALID:
            lead.validated, lead.tries = count, 0
            is_of_asked = lead.asked is not None and lead.asked.flashblocks == count
            lead.valid = lead.asked if is_of_asked else None
        elif status in (PayloadStatus.INVALID, PayloadStatus.INVALID_BLOCK_HASH):
            self._refuse(known, lead, Reason.INVALID)
        else:
            # SYNCING and ACCEPTED are no verdict; nor is silence.
            lead.tries += 1
            if lead.tries >= VALIDATION_TRIES:
                self._refuse(known, lead, Reason.NOT_VALIDATED)

    def _append_next(self, known: Round, lead: BuilderStream) -> None:
        if self._appending is not None or known.handed >= known.ready(execution=self._execution):
            return
        flashblock = lead.flashblocks[known.handed]
        if known.owner is None:
            known.owner, known.state = lead, PayloadState.BUILDING
            known.block_number = flashblock.block_number
            self._published[lead.payload_id] = known
            self._unfinished.discard(lead.payload_id)  # built and shown again: its fate is this round's
        arrived_at = lead.arrivals[known.handed]
        known.handed += 1
        self._appending = known
        self._commands.append(Append(flashblock, lead.builder, arrived_at))

    def _undo_append(self, failed: Round, owner: BuilderStream, reason: Reason) -> None:
        if failed.fenced:  # its block was answered already, with this flashblock in it
            self._drop(reason, owner, failed.handed - 1)
            return
        failed.handed -= 1
        self._drop(reason, owner, failed.handed)
        if failed.handed == 0:
            self._unpublish(failed, owner)
            failed.disown()
        if failed.handed == 0 and reason is Reason.LOG_EQUIVOCATION:
            # The log has another builder's, or an earlier, body: whoever sends that one may go on.
            self._refuse(failed, owner, reason)
        else:
            failed.paused = reason
            self._pause(reason, failed, owner, failed.handed)

    # Ending.

    def _fence(self, known: Round) -> None:
        if known.fenced:
            return
        known.fenced = True
        if known.owner is not None:
            self._seal(known, known.owner)
        known.release()

    def _seal(self, known: Round, owner: BuilderStream) -> None:
        known.sealed = self._shown_block(known, owner)
        self._set_state(known, PayloadState.SEALED)
        held = len(owner.flashblocks) - known.handed
        if held:
            self._drop(Reason.UNPUBLISHED, owner, known.handed, held)
        missing = owner.highest_index + 1 - known.handed
        self._commands.append(Sealed(owner.payload_id, owner.builder, known.handed, missing))

    def _shown_block(self, known: Round, owner: BuilderStream) -> AssembledPayload | None:
        """getPayload waits for it, so it is not put together again when the EL was asked about just this block."""
        if owner.valid is not None and owner.valid.flashblocks == known.handed:
            return replace(owner.valid, validated=True)
        return assemble(owner.flashblocks[: known.handed], builder=owner.builder, validated=self._execution)

    def _set_state(self, known: Round, state: PayloadState, block_hash: str | None = None) -> None:
        if known.owner is not None:
            known.state = state
            landed = block_hash.lower() if block_hash else None
            self._record(known.owner.payload_id, state, known.block_number, landed)

    def _record(
        self, payload_id: PayloadId, state: PayloadState, block_number: int | None, block_hash: str | None
    ) -> None:
        self._commands.append(SetState(payload_id, state, block_hash))
        if state in self._fates:
            self._fates[state] += 1
            self._commands.append(Fate(payload_id, state, block_number))

    def _forget(self, old: Round) -> None:
        if old.is_undecided:
            self._set_state(old, PayloadState.DROPPED)
        for build_id in old.builds:
            del self._builds[build_id]
        for stream in old.streams.values():
            route = self._routes.get((stream.builder, stream.payload_id))
            if route is not None and route[0] is old:
                del self._routes[stream.builder, stream.payload_id]
        if old.owner is not None:
            self._unpublish(old, old.owner)

    def _unpublish(self, known: Round, owner: BuilderStream) -> None:
        if self._published.get(owner.payload_id) is known:
            del self._published[owner.payload_id]

    def _refuse(self, known: Round, stream: BuilderStream, reason: Reason) -> None:
        index = stream.validated
        stream.refuse(reason)
        self._pause(reason, known, stream, index)

    def _drop(self, reason: Reason, stream: BuilderStream, index: int, count: int = 1) -> None:
        self._commands.append(Dropped(reason, stream.builder, stream.payload_id, index, count))

    def _pause(self, reason: Reason, known: Round, stream: BuilderStream, index: int) -> None:
        published = stream is known.owner
        self._commands.append(Paused(reason, stream.builder, stream.payload_id, index, published))
