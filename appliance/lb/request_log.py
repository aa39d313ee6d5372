"""The lines that prio-load-balancer's users search for: a request's way through the queue (REFERENCE, section 5).

Names of fields are the original's. ``nodeURI`` is the node as it may be shown.
"""

from typing import Final

import trio

from appliance.lb.dispatch import Job
from appliance.lb.queue import Priority
from appliance.lb.relay import Answer
from appliance.telemetry.request_lines import RequestLines

FLUSH_INTERVAL_S: Final = 0.1

Sizes = tuple[int, int, int]
"""Waiting requests: fast-track, high, low."""


class RequestLog:
    """Two lines a request, at info level; nothing at all when ``wanted`` is false."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._lines = RequestLines("lb")

    @property
    def enabled(self) -> bool:
        """Whether the lines would be seen."""
        return self._wanted and self._lines.enabled

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
        fields = _who(job, high, request_id)
        fields["fastTrack"], fields["highPrio"], fields["lowPrio"] = sizes
        self._lines.write("Request added to queue", fields)

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
        fields = {
            **_who(job, high, request_id),
            "durationMs": int(total_s * 1e3),
            "durationUs": int(total_s * 1e6),
            "queueDurationUs": int(answer.queue_s * 1e6),
            "simDurationUs": int(answer.proxy_s * 1e6),
            "payloadSize": payload_size,
            "statusCode": answer.status,
            "nodeURI": answer.node,
            "requestTries": job.tries,
            "queueItems": sizes[0] + sizes[1] + sizes[2],
        }
        fields["queueItemsFastTrack"], fields["queueItemsHighPrio"], fields["queueItemsLowPrio"] = sizes
        self._lines.write("Request completed", fields)


def _who(job: Job, high: bool, request_id: str | None) -> dict[str, object]:
    fields: dict[str, object] = {} if request_id is None else {"reqID": request_id}
    fields["requestIsHighPrio"] = high
    fields["requestIsFastTrack"] = job.priority is Priority.FAST_TRACK
    return fields
