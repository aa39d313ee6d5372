"""The lines that prio-load-balancer's users search for: a request's way through the queue (REFERENCE, section 5).

Names of fields are the original's. ``node_uri`` is the node as it may be shown.
"""

from typing import Final

import msgspec
import trio

from appliance.lb.dispatch import Job
from appliance.lb.queue import Priority
from appliance.lb.relay import Answer
from appliance.telemetry.request_lines import RequestLines

FLUSH_INTERVAL_S: Final = 0.1

Sizes = tuple[int, int, int]
"""Waiting requests: fast-track, high, low."""


class _Added(msgspec.Struct, rename="camel", gc=False):
    request_is_high_prio: bool
    request_is_fast_track: bool
    fast_track: int
    high_prio: int
    low_prio: int
    req_id: str | msgspec.UnsetType = msgspec.field(name="reqID", default=msgspec.UNSET)


class _Completed(msgspec.Struct, rename="camel", gc=False):
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


class RequestLog:
    """Two lines a request, at info level; nothing at all when ``wanted`` is false."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._lines = RequestLines("lb")

    async def run(self) -> None:
        """Write what was collected, until cancelled, and once more at the end."""
        try:
            while True:
                await trio.sleep(FLUSH_INTERVAL_S)
                self._lines.flush()
        finally:
            self._lines.flush()

    def added(self, job: Job, high: bool, request_id: str | None, sizes: Sizes) -> None:
        """It waits, or has its worker already."""
        if not self._wanted or not self._lines.enabled:
            return
        fast = job.priority is Priority.FAST_TRACK
        self._lines.write("Request added to queue", _Added(high, fast, *sizes, _set(request_id)))

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
        line = _Completed(
            high,
            job.priority is Priority.FAST_TRACK,
            int(total_s * 1e3),
            int(total_s * 1e6),
            int(answer.queue_s * 1e6),
            int(answer.proxy_s * 1e6),
            payload_size,
            answer.status,
            answer.node,
            job.tries,
            sizes[0] + sizes[1] + sizes[2],
            *sizes,
            _set(request_id),
        )
        self._lines.write("Request completed", line)


def _set(request_id: str | None) -> str | msgspec.UnsetType:
    return msgspec.UNSET if request_id is None else request_id
