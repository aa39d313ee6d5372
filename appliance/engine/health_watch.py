"""The shell around the health machine: asks each upstream for its latest block, and says what changed."""

import time
from collections.abc import Callable, Sequence

import trio

from appliance.domain.errors import RemoteError, UnavailableError
from appliance.domain.health import Health, HealthFact
from appliance.engine.events import Produced
from appliance.engine.health import HealthMachine
from appliance.engine.metrics import EngineMetrics
from appliance.engine.upstream import Upstream
from appliance.telemetry.logging import get_logger
from appliance.wire.engine import decode_latest_timestamp
from appliance.wire.engine_bodies import latest_block_request

log = get_logger("engine")


class HealthWatch:
    """Probes the ``upstreams`` (the EL first) every ``interval_s`` seconds, and at once when one is suspected."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        metrics: EngineMetrics,
        *,
        interval_s: float,
        max_unsafe_interval_s: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstreams = tuple(upstreams)
        self._metrics = metrics
        self._interval_s = interval_s
        self._wall_clock = wall_clock
        self._machine = HealthMachine([upstream.name for upstream in upstreams[1:]], max_unsafe_interval_s)
        self._suspected = trio.Event()
        self._told: Health | None = None

    @property
    def status(self) -> Health:
        """What /healthz answers."""
        return self._machine.status()

    def facts(self) -> list[HealthFact]:
        """Each upstream with its reason."""
        return self._machine.facts()

    def produced(self, observation: Produced) -> None:
        """What came of getPayload."""
        if self._machine.produced(observation.upstream, observation.ok):
            self._suspected.set()
        self._tell()

    async def run(self) -> None:
        """Probe for ever."""
        while True:
            self._suspected = trio.Event()
            await self._probe_all()
            with trio.move_on_after(self._machine.next_probe_s(self._interval_s)):
                await self._suspected.wait()

    async def _probe_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for upstream in self._upstreams:
                nursery.start_soon(self._probe, upstream)

    async def _probe(self, upstream: Upstream) -> None:
        try:
            response = await upstream.post(latest_block_request())
            if response.status != 200:
                raise UnavailableError(f"{upstream.origin}: HTTP {response.status}")
            timestamp = decode_latest_timestamp(response.body)
        except (UnavailableError, RemoteError) as error:
            self._machine.probe_failed(upstream.name, str(error))
        else:
            self._machine.block_seen(upstream.name, timestamp, self._wall_clock())
        self._tell()

    def _tell(self) -> None:
        status = self._machine.status()
        self._metrics.health.set(status)
        for fact in self._machine.facts():
            self._metrics.upstream_healthy.labels(fact.name).set(fact.healthy)
        if status is not self._told:
            reasons = {fact.name: fact.reason for fact in self._machine.facts()}
            log.info("health", status=int(status), before=self._told and int(self._told), **reasons)
            self._told = status
