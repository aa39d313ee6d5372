"""The end of a run: everybody is sent away, one after the other, so that they do not all come back at once."""

from typing import Final

import trio

from appliance.fanout.hub import Hub
from appliance.fanout.pacing import Clock, Pace
from appliance.telemetry.logging import get_logger

log = get_logger("fanout")

LAST_BROADCAST_S: Final = 1.0  # for what is committed when the host stops; then subscribers are closed without it
GENTLE_PER_S: Final = (
    200  # so many that come back in a second are no storm: fewer subscribers leave in less than the time
)
_STEP_S: Final = 0.01


def duration_s(subscribers: int, drain_s: float) -> float:
    """Over how many seconds so many subscribers are sent away."""
    return min(drain_s, subscribers / GENTLE_PER_S)


async def send_away(hub: Hub, drain_s: float, clock: Clock) -> None:
    """Close everybody who is there with 1001 and the place to go on from, evenly spread over the time.

    Who is not closed yet is served as ever. Who comes in meanwhile is for the caller to close.
    """
    sessions = list(hub.sessions)
    lasting, begun, pace = duration_s(len(sessions), drain_s), trio.current_time(), Pace(clock)
    log.info("closing all subscribers", subscribers=len(sessions), over_s=round(lasting, 3))
    for number, session in enumerate(sessions):
        due, now = begun + lasting * number / len(sessions), trio.current_time()
        if due > now:
            await trio.sleep_until(max(due, now + _STEP_S))
        hub.go_away(session, trio.current_time())
        if pace.spent:
            await pace.give_way()
