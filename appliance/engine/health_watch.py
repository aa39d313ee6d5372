"""The shell around the health machine: asks each upstream for its latest block, and says what changed."""

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from appliance.domain.errors import RemoteError, UnavailableError
from appliance.domain.health import Health, HealthFact
from appliance.engine.events import EL, Produced
from appliance.engine.health import HealthMachine
from appliance.engine.metrics import EngineMetrics
from appliance.engine.upstream import Upstream
from appliance.telemetry.logging import get_logger
from appliance.wire.engine_answers import LatestBlock, decode_latest_block
from appliance.wire.engine_bodies import latest_block_request

log = get_logger("engine")

PROBE_TIMEOUT_S: Final = 2.0
"""A probe that takes longer has failed, whatever the upstream's own timeout: one must not delay the others'."""


class HealthListener(Protocol):
    """Who acts on what is found."""

    def health_changed(self, status: Health, unhealthy: frozenset[str]) -> None:
        """The status or the set of builders that are ill is another one."""

    def builder_probed(self, builder: str, head: int | None) -> None:
        """A builder said its head's number; None when it did not answer."""


class HealthWatch:
    """Probes every ``interval_s`` seconds, sooner while something is wrong, and at once when one is suspected.

    ``el`` is None for the builder listener, which has none.
    """

    def __init__(
        self,
        el: Upstream | None,
        builders: Sequence[Upstream],
        metrics: EngineMetrics,
        *,
        interval_s: float,
        max_unsafe_interval_s: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstreams = tuple(builders) if el is None else (el, *builders)
        self._metrics = metrics
        self._interval_s = interval_s
        self._wall_clock = wall_clock
        names = [builder.name for builder in builders]
        self._machine = HealthMachine(names, max_unsafe_interval_s, has_el=el is not None)
        self._suspected = trio.Event()
        self._told: tuple[Health, frozenset[str]] | None = None
        self._listener: HealthListener | None = None

    @property
    def status(self) -> Health:
        """What /healthz answers."""
        return self._machine.status()

    def facts(self) -> list[HealthFact]:
        """Each upstream with its reason."""
        return self._machine.facts()

    def use_builders(self, used: bool) -> None:
        """Whether builders count for the status; they are probed in any case."""
        self._machine.use_builders(used)
        if self._told is not None:
            self._tell()

    def listen(self, listener: HealthListener) -> None:
        """Tell this one from now on."""
        self._listener = listener

    def produced(self, observation: Produced) -> None:
        """What came of getPayload."""
        now = trio.current_time()
        reason = _without_name(observation.upstream, observation.reason)
        if self._machine.produced(observation.upstream, observation.ok, reason, now):
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
        head = None
        try:
            block = await _latest_block(upstream)
        except (UnavailableError, RemoteError) as error:
            self._machine.probe_failed(upstream.name, _without_name(upstream.name, str(error)), trio.current_time())
        else:
            head = block.number or 0
            self._machine.block_seen(upstream.name, block, self._wall_clock(), trio.current_time())
        if self._listener is not None and upstream.name != EL:
            self._listener.builder_probed(upstream.name, head)
        self._tell()

    def _tell(self) -> None:
        status, unhealthy = self._machine.status(), self._machine.unhealthy()
        for fact in self._machine.facts(everyone=True):
            self._metrics.upstream_healthy.labels(fact.name).set(fact.healthy)
        if (status, unhealthy) == self._told:
            return
        if self._told is None or status is not self._told[0]:
            reasons = {fact.name: fact.reason for fact in self._machine.facts()}
            log.info("health", status=int(status), before=self._told and int(self._told[0]), **reasons)
        self._log_builders(unhealthy)
        self._told = status, unhealthy
        if self._listener is not None:
            self._listener.health_changed(status, unhealthy)

    def _log_builders(self, unhealthy: frozenset[str]) -> None:
        before = self._told[1] if self._told else frozenset()
        for name in sorted(unhealthy - before):
            log.warning("builder is unhealthy", builder=name, reason=self._machine.reason(name))
        for name in sorted(before - unhealthy):
            log.info("builder is healthy again", builder=name, reason=self._machine.reason(name))


def _without_name(upstream: str, reason: str) -> str:
    """A fact has the name in front; errors, which stand alone elsewhere, begin with it too."""
    return reason.removeprefix(f"{upstream}: ").removeprefix(f"{upstream} ")


async def _latest_block(upstream: Upstream) -> LatestBlock:
    with trio.move_on_after(PROBE_TIMEOUT_S):
        response = await upstream.post(latest_block_request())
        if response.status != 200:
            raise UnavailableError(f"{upstream.origin}: HTTP {response.status}")
        return decode_latest_block(response.body)
    raise UnavailableError(f"{upstream.origin}: no answer within {PROBE_TIMEOUT_S:.0f} s")
