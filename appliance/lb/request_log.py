"""The lines that prio-load-balancer's users search for: a request's way through the queue (REFERENCE, section 5).

Names of fields are the original's. ``node_uri`` is the node as it may be shown.
"""

from collections.abc import Hashable
from typing import Final

import msgspec
import trio

from appliance.lb.dispatch import Job
from appliance.lb.queue import FAST_TRACK
from appliance.lb.relay import Answer
from appliance.telemetry.logging import get_logger
from appliance.telemetry.request_lines import RequestLine, RequestLines
from appliance.telemetry.seldom import Seldom

log = get_logger("lb")

FLUSH_INTERVAL_S: Final = 0.1

WARN_EVERY_S: Final = 10.0
"""Between two warnings of one reason for which requests are refused: in an overload each would be a line of its own."""

Sizes = tuple[int, int, int]
"""Waiting requests: fast-track, high, low."""


class _Added(RequestLine, tag_field="plane", tag="lb", rename="camel", gc=False):
    request_is_high_prio: bool
    request_is_fast_track: bool
    fast_track: int
    high_prio: int
    low_prio: int
    req_id: str | msgspec.UnsetType = msgspec.field(name="reqID", default=msgspec.UNSET)


class _Completed(RequestLine, tag_field="plane", tag="lb", rename="camel", gc=False):
    request_is_high_prio: bool
    request_is_fast_track: bool
    duration_ms: int
    duration_us: int
    queue_duration_us: int
    sim_duration_us: int
    payload_size: int
    status_code: int
    node_uri: str = msgspec.field(name="nodeURI")
    request_tries: int
    queue_items: int
    queue_items_fast_track: int
    queue_items_high_prio: int
    queue_items_low_prio: int
    req_id: str | msgspec.UnsetType = msgspec.field(name="reqID", default=msgspec.UNSET)


class _Refused(RequestLine, tag_field="plane", tag="lb", rename="camel", gc=False):
    request_is_high_prio: bool
    request_is_fast_track: bool
    reason: str
    request_tries: int
    payload_size: int
    req_id: str | msgspec.UnsetType = msgspec.field(name="reqID", default=msgspec.UNSET)


class RequestLog:
    """Two lines a request, at info level; none of them when ``wanted`` is false.

    That requests are refused is also a warning now and then, wanted or not.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._lines = RequestLines()
        self._refusals = Seldom(WARN_EVERY_S)

    async def run(self) -> None:
        """Write what was collected, until cancelled, and once more at the end."""
        try:
            while True:
                await trio.sleep(FLUSH_INTERVAL_S)
                self._lines.flush()
                _warn(self._refusals.take_due(trio.current_time()))
        finally:
            self._lines.flush()
            _warn(self._refusals.take_all(trio.current_time()))

    def added(self, job: Job, high: bool, request_id: str | None, sizes: Sizes) -> None:
        """It waits, or has its worker already."""
        if not self._wanted or not self._lines.enabled:
            return
        fast, high_prio, low = sizes
        self._lines.write(
            _Added(
                high,
                job.priority is FAST_TRACK,
                fast,
                high_prio,
                low,
                msgspec.UNSET if request_id is None else request_id,
                time=self._lines.now(),
                message="Request added to queue",
            )
        )

    def refused(self, job: Job, high: bool, request_id: str | None, payload_size: int, reason: str) -> None:
        """It is answered without a node's answer."""
        self._note(reason)
        if not self._wanted or not self._lines.enabled:
            return
        self._lines.write(
            _Refused(
                high,
                job.priority is FAST_TRACK,
                reason,
                job.tries,
                payload_size,
                msgspec.UNSET if request_id is None else request_id,
                time=self._lines.now(),
                message="Request refused",
            )
        )

    def rate_limited(self, reason: str) -> None:
        """It was not taken in."""
        self._note(reason)

    def completed(
        self,
        job: Job,
        high: bool,
        request_id: str | None,
        payload_size: int,
        answer: Answer,
        total_s: float,
        sizes: Sizes,
    ) -> None:
        """A node's answer goes to the client, or what stands for it."""
        if not self._wanted or not self._lines.enabled:
            return
        fast, high_prio, low = sizes
        total_us = int(total_s * 1e6)
        self._lines.write(
            _Completed(
                high,
                job.priority is FAST_TRACK,
                total_us // 1000,
                total_us,
                int(answer.queue_s * 1e6),
                int(answer.proxy_s * 1e6),
                payload_size,
                answer.status,
                answer.node,
                job.tries,
                fast + high_prio + low,
                fast,
                high_prio,
                low,
                msgspec.UNSET if request_id is None else request_id,
                time=self._lines.now(),
                message="Request completed",
            )
        )

    def _note(self, reason: str) -> None:
        count = self._refusals.note(reason, trio.current_time())
        if count:
            _warn([(reason, count)])


def _warn(refusals: list[tuple[Hashable, int]]) -> None:
    for reason, count in refusals:
        log.warning("requests refused", reason=reason, requests=count)
