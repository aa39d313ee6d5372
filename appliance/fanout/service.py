"""The fan-out plane.

request -> Door (limits, place in the log) -> 101 -> Session -> Hub
                                               at the head: Broadcast   behind: CatchUp   all: Sweeper
"""

import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final

import trio

from appliance.domain.errors import LogError
from appliance.fanout.api_keys import ApiKeys, App
from appliance.fanout.attendance import Attendance
from appliance.fanout.backlog import Backlog
from appliance.fanout.broadcast import Broadcast, Sweeper
from appliance.fanout.catchup import CatchUp
from appliance.fanout.door import Door
from appliance.fanout.drain import LAST_BROADCAST_S, send_away
from appliance.fanout.frames import RunSync
from appliance.fanout.framesets import FrameCache
from appliance.fanout.gate import Gate
from appliance.fanout.herald import Herald
from appliance.fanout.hub import Hub, HubSettings
from appliance.fanout.limits import Admission, ClientAddress
from appliance.fanout.marks import Mark
from appliance.fanout.metrics import FanoutMetrics
from appliance.fanout.pacing import Clock, Pace, never
from appliance.fanout.ports import LogView, StateSource
from appliance.fanout.reception import Reception
from appliance.fanout.session import Session
from appliance.fanout.turns import Turns
from appliance.net.http_server import HttpLimits, HttpServer
from appliance.telemetry.logging import get_logger

log = get_logger("fanout")

HTTP_IDLE_S: Final = 5.0  # a subscriber asks at once; who holds a connection silently takes it from others
SPARE_CONNECTIONS: Final = 256  # for health checks, and for saying no in words


@dataclass(frozen=True, slots=True)
class FanoutSettings:
    """The section [fanout]: counts of subscribers, lag in entries, times in seconds."""

    max_subscribers: int = 10_000
    max_per_ip: int = 1_000
    max_lag: int = 1_500
    api_keys: tuple[App, ...] = ()
    public_access: bool = False
    deflate: bool = True
    proxies: tuple[str, ...] = ()
    ip_header: str = "X-Forwarded-For"
    ping_interval_s: float = 15.0
    pong_timeout_s: float = 30.0
    close_timeout_s: float = 3.0
    drain_s: float = 5.0  # over which all are sent away at the end
    drain_timeout_s: float = 5.0  # after that, for the last ones' closing

    @property
    def stop_s(self) -> float:
        """How long the end takes at most."""
        return LAST_BROADCAST_S + self.drain_s + self.drain_timeout_s

    @property
    def sweep_tick_s(self) -> float:
        """How exactly the times above are kept: an eighth of the shortest, at most a second."""
        return min(1.0, min(self.ping_interval_s, self.pong_timeout_s, self.close_timeout_s) / 8)


class Fanout:
    """Serves subscribers from a log. May be run again after it failed; a run begins without subscribers."""

    def __init__(
        self,
        settings: FanoutSettings,
        log_view: LogView,
        metrics: FanoutMetrics,
        *,
        states: StateSource | None = None,
        run_sync: RunSync = trio.to_thread.run_sync,
        clock: Clock = perf_counter,
        jitter: Callable[[], float] = random.random,
        hurried: Callable[[], bool] = never,
    ) -> None:
        """``hurried`` says whether somebody in the process waits for an answer: then slices are shorter."""
        self._settings = settings
        self._log = log_view
        self._metrics = metrics
        self._states = states
        self._run_sync = run_sync
        self._clock = clock
        self._hurried = hurried
        self._jitter = jitter  # spreads the pings of subscribers that came together; 0 to 1
        self._gate = Gate(
            ApiKeys(settings.api_keys, public=settings.public_access),
            Admission(settings.max_subscribers, settings.max_per_ip),
            ClientAddress(settings.proxies, settings.ip_header),
            metrics,
        )
        self._hub: Hub | None = None
        self._reception: Reception | None = None
        self._server: HttpServer | None = None

    async def run(
        self,
        listener: socket.socket,
        *,
        stopping: trio.Event,
        task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stopping`` is set, then send everybody away with 1001, at most ``drain_s`` long.

        Meanwhile requests are answered with 503. ``started`` gets the server.
        """
        async with trio.open_nursery() as workers:
            turns = Turns(self._clock, self._hurried)
            hub, broadcast = await self._create_hub(workers, turns)
            self._hub = hub
            sweeper = Sweeper(hub, self._settings.sweep_tick_s, self._clock, broadcast.wait_idle)
            workers.start_soon(broadcast.run)
            workers.start_soon(sweeper.run)
            attendance = Attendance(hub, turns)
            workers.start_soon(attendance.run)
            if self._states is not None:
                await workers.start(Herald(hub, broadcast, self._states, self._clock).run)
            self._reception = self._create_reception(hub, attendance, stopping)
            door = Door(
                self._log,
                self._gate,
                stopping,
                self._reception.welcome,
                hub.filters,
                deflate=self._settings.deflate,
            )
            drained = trio.Event()
            server = self._server = self._create_server(door, listener, drained, turns)
            async with trio.open_nursery() as serving:
                serving.start_soon(self._drain_when, stopping, broadcast, hub, attendance, drained)
                await server.run(task_status=task_status)
            workers.cancel_scope.cancel()

    async def reload(self, settings: FanoutSettings) -> None:
        """Take over the keys and the limits, and close with 1008 who came with a key that is none any more.

        Other settings stay. Limits that are lower now close nobody.
        """
        self._settings = replace(
            self._settings,
            max_subscribers=settings.max_subscribers,
            max_per_ip=settings.max_per_ip,
            api_keys=settings.api_keys,
            public_access=settings.public_access,
        )
        self._gate.change(
            settings.api_keys,
            public=settings.public_access,
            max_subscribers=settings.max_subscribers,
            max_per_ip=settings.max_per_ip,
        )
        if self._server is not None:
            self._server.change_max_connections(settings.max_subscribers + SPARE_CONNECTIONS)
        if self._hub is not None and self._reception is not None:
            await self._close_strangers(self._hub, self._reception)

    async def _close_strangers(self, hub: Hub, reception: Reception) -> None:
        pace, closed = Pace(self._clock), 0
        for session in list(hub.sessions):
            closed += reception.close_stranger(session)
            if pace.spent:
                await pace.give_way()
        if closed:
            log.warning("subscribers closed: their keys are not valid any more", subscribers=closed)

    async def _create_hub(self, workers: trio.Nursery, turns: Turns) -> tuple[Hub, Broadcast]:
        settings, log_view = self._settings, self._log
        cache = FrameCache()

        def on_behind(session: Session, full: bool) -> None:
            catch_up.add(session, full)

        hub = Hub(
            await _mark_of_head(log_view),
            HubSettings(
                max_lag=settings.max_lag,
                ping_interval_s=settings.ping_interval_s,
                pong_timeout_s=settings.pong_timeout_s,
                close_timeout_s=settings.close_timeout_s,
            ),
            self._metrics,
            on_behind,
        )
        catch_up = CatchUp(hub, Backlog(log_view, cache), turns, self._run_sync, workers.start_soon)
        workers.start_soon(catch_up.run)
        return hub, Broadcast(hub, log_view, cache, turns, self._run_sync)

    def _create_reception(self, hub: Hub, attendance: Attendance, stopping: trio.Event) -> Reception:
        return Reception(
            hub,
            attendance,
            self._gate,
            self._metrics,
            stopping=stopping,
            first_ping_s=lambda: self._jitter() * self._settings.ping_interval_s,
        )

    def _create_server(self, door: Door, listener: socket.socket, drained: trio.Event, turns: Turns) -> HttpServer:
        return HttpServer(
            door.handle,
            listener,
            limits=HttpLimits(
                max_connections=self._settings.max_subscribers + SPARE_CONNECTIONS,
                max_header_bytes=16 * 1024,
                max_body_bytes=1024,
                idle_timeout_s=HTTP_IDLE_S,
                keep_alive=False,  # a subscriber asks once, and thousands of others must not ask again at once
            ),
            stopping=drained,
            drain_timeout_s=self._settings.drain_timeout_s,
            name="fanout",
            accept_turn=turns.take,
            may_connect=self._gate.may_connect,
            at_once=door.handle_at_once,
        )

    async def _drain_when(
        self, stopping: trio.Event, broadcast: Broadcast, hub: Hub, attendance: Attendance, drained: trio.Event
    ) -> None:
        await stopping.wait()  # the door says 503 from now on, also to health checks
        # What is committed now was promised: a flashblock of the last block may be the one that nobody repeats.
        with trio.move_on_after(LAST_BROADCAST_S):
            await broadcast.wait_delivered(self._log.head)
        await send_away(hub, self._settings.drain_s, self._clock)
        drained.set()
        with trio.move_on_after(self._settings.drain_timeout_s):
            await attendance.wait_empty()
        await attendance.cut_all()

    def statistics(self) -> dict[str, object]:
        """For the admin plane: where the subscribers stand, the limits, what was counted."""
        return {
            "hub": self._hub.statistics() if self._hub else None,
            **self._gate.statistics(),
            "max_subscribers": self._settings.max_subscribers,
            "counts": self._metrics.values(),
            "server": self._server.statistics() if self._server else None,
        }


async def _mark_of_head(log_view: LogView) -> Mark:
    """The log's head at the start; its key is unknown when retention has taken it or it cannot be read."""
    head = log_view.head
    if head == 0:
        return Mark(0)
    entries = log_view.recent(head - 1, 1)
    if entries is None:
        try:
            entries = await log_view.read(head - 1, limit=1, max_bytes=1)
        except LogError:
            entries = []
    return Mark.of(entries[0]) if entries and entries[0].position == head else Mark(head)
