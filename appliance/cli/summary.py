"""The lines of `appliance status` that people look at first: one screen for all planes; --all has every number.

A plane that is not named here shows its state alone. What a report does not have is "-": it may come from another
version.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

Line = tuple[str, str]
"""(what, numbers in words)."""

_HASH_CHARACTERS: Final = 18
_ORIGINS: Final = {"file": "from the file", "added": "added by command"}


class Numbers:
    """A part of the report, asked by path."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __call__(self, path: str) -> str:
        """The value in words; "-" where there is none."""
        return cell(self.raw(path))

    def raw(self, path: str) -> Any:
        """The value itself, or None."""
        found = self._values
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def each(self, path: str) -> list[tuple[str, "Numbers"]]:
        """The members of an object by name, or of a list by their own `name`."""
        found = self.raw(path)
        if isinstance(found, dict):
            return [(name, Numbers(values)) for name, values in found.items()]
        parts = found if isinstance(found, list) else []
        return [(str(Numbers(values)("name")), Numbers(values)) for values in parts]

    def pairs(self, path: str) -> str:
        """An object of numbers as "builder 6, l2 3"."""
        found = self.raw(path)
        return ", ".join(f"{name} {cell(value)}" for name, value in found.items()) if isinstance(found, dict) else "-"


def lines(report: dict[str, Any]) -> Iterator[Line]:
    """The summary of all planes, in the report's order, the log last."""
    numbers = {**report.get("planes", {}), "flashlog": report.get("flashlog")}
    for name, values in numbers.items():
        if values and name in _SUMMARIES:
            yield from _SUMMARIES[name](Numbers(values))


def _engine(of: Numbers) -> Iterator[Line]:
    kept = "" if of.raw("mode.kept") in (True, None) else f", NOT KEPT: {of('mode.problem')}"
    yield (
        "mode",
        f"{of('mode.execution_mode')} ({of('mode.source')}, since {of('mode.since')} by {of('mode.who')}){kept}",
    )
    yield "policy", of("policy")
    yield from _blocks(of)
    yield from _builders(of)


def _builder_listen(of: Numbers) -> Iterator[Line]:
    yield "shared", f"policy {of('policy')}, {of('server.connections')} connections, {of('server.requests')} requests"
    yield from (("shared " + what, text) for what, text in [*_blocks(of), *_builders(of)])


def _blocks(of: Numbers) -> Iterator[Line]:
    rehearsed = f"; a dry run would have returned {of.pairs('blocks.dry_run_choices')}"
    yield "blocks", f"{of.pairs('blocks.by_context')}{rehearsed if of.raw('blocks.dry_run_choices') else ''}"
    if of.raw("blocks.last"):
        by = f"{of('blocks.last.source')} {of('blocks.last.builder')}".removesuffix(" -")
        yield "last block", f"{of('blocks.last.number')} by {by} in {of('blocks.last.milliseconds')} ms, {_short(of)}"


def _short(of: Numbers) -> str:
    return of("blocks.last.hash")[:_HASH_CHARACTERS]


def _builders(of: Numbers) -> Iterator[Line]:
    for name, builder in of.each("builders"):
        text = f"{builder('failures')} calls without an answer, {builder('waiting')} wait, {builder('dropped')} dropped"
        yield f"builder {name}", f"{builder('requests')} calls, {text}"


def _flashblocks(of: Numbers) -> Iterator[Line]:
    paused = f", paused: {of('stream.paused')}" if of.raw("stream.paused") else ""
    place = f"block {of('stream.block_number')} by {of('stream.builder')}, {of('stream.published')} logged{paused}"
    yield "flashblocks", f"{place}; {of('stream.landed')} payloads landed, {of('stream.dropped')} dropped"
    for name, source in of.each("sources"):
        if source.raw("connected"):
            state = f"connected, the last message {source('last_message_age_s')} s ago"
        else:
            state = f"not connected: {source('last_error')}"
        yield f"source {name}", f"{state}; {source('messages')} messages, {source('decode_errors')} unreadable"


def _fanout(of: Numbers) -> Iterator[Line]:
    counts = f"{of('counts.sent_messages')} sent, {of('counts.lagged_connections')} closed for lagging"
    text = f"{of('hub.subscribers')} subscribers, {of('hub.catching_up')} catch up, lag {of('hub.max_lag')}"
    yield "fan-out", f"{text}; {counts}"


def _replication(of: Numbers) -> Iterator[Line]:
    recovering = ", recovering: it does not vote" if of.raw("recovering") else ""
    shown = f"{of('shown_uncommitted')} shown without a majority, " if of.raw("shown_uncommitted") else ""
    held = f"{shown}{of('held')} flashblocks held for {of('held_s')} s, {of('contradictions')} contradictions"
    commits = f"commits take {of('commit_ms.p50')} ms, p99 {of('commit_ms.p99')}"
    yield "replication", f"{of('host_id')}, {of('role')}, quorum {of('quorum')}{recovering}; {held}; {commits}"
    for name, peer in of.each("peers"):
        state = "followed" if peer.raw("following") else f"not connected: {peer('last_error')}"
        yield f"peer {name}", f"{state}; {peer('behind')} behind, {peer('outages')} outages"
    for name, follower in of.each("followers"):
        refused = f"{follower('refused')} refused{'' if follower.raw('votes') else '; it has no vote'}"
        text = f"acknowledged up to position {follower('acked')}, {follower('behind')} behind, {refused}"
        yield f"follower {name}", text


def _lb(of: Numbers) -> Iterator[Line]:
    waiting = f"{of('queue.fast_track')} fast-track, {of('queue.high')} high, {of('queue.low')} low"
    yield "lb", f"{of('in_flight')} in flight; waiting: {waiting}"
    for node in of.raw("nodes") or ():
        of_node = Numbers(node)
        origin = _ORIGINS.get(of_node("source"), of_node("source"))
        text = f"{of_node('in_flight')} of {of_node('workers')} workers, {origin}"
        yield f"node {of_node('uri')}", f"{of_node('explain.state')}, {of_node('explain.reason')}; {text}"


def _providers(of: Numbers) -> Iterator[Line]:
    for name, group in of.each("groups"):
        counts = f"{group('switches')} switches, {group('clients')} websockets"
        yield (
            f"L1 {name}",
            f"{group('active')} is active; {counts}, {group('transactions.dropped')} transactions dropped",
        )
        for endpoint_name, endpoint in group.each("endpoints"):
            yield f"  {endpoint_name}", f"{endpoint('state')}, head {endpoint('head')}: {endpoint('explain')}"


def _flashlog(of: Numbers) -> Iterator[Line]:
    error = f", last error: {of('last_error')}" if of.raw("last_error") else ""
    written = f"{of('waiting_writes')} writes wait, {of('failed_writes')} failed{error}"
    yield "log", f"{of('entries')} flashblocks of {of('payloads')} payloads, {_mebibytes(of.raw('bytes'))}; {written}"


_SUMMARIES: Final[dict[str, Callable[[Numbers], Iterator[Line]]]] = {
    "engine": _engine,
    "builder_listen": _builder_listen,
    "flashblocks": _flashblocks,
    "replication": _replication,
    "fanout": _fanout,
    "lb": _lb,
    "providers": _providers,
    "flashlog": _flashlog,
}


def _mebibytes(count: Any) -> str:
    return f"{count / 2**20:,.1f} MiB" if isinstance(count, int) else "-"


def cell(value: Any) -> str:
    """One value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(cell, value)) or "-"
    return "-" if value is None else str(value)
