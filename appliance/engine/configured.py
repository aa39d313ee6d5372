"""From the section `[engine]` to what the plane takes: its settings, and its upstreams."""

from contextlib import AsyncExitStack

from appliance.config.model import EngineConfig, UpstreamConfig
from appliance.engine.events import EL
from appliance.engine.metrics import EngineMetrics
from appliance.engine.service import EngineSettings
from appliance.engine.upstream import MAX_ANSWER_BYTES, MAX_BUILDER_ANSWER_BYTES, Upstream


def engine_settings(config: EngineConfig, jwt_secret: bytes) -> EngineSettings:
    """The same values, in seconds."""
    return EngineSettings(
        jwt_secret=jwt_secret,
        policy=config.policy,
        min_gas_share=config.min_gas_share,
        ignore_unhealthy_builders=config.ignore_unhealthy_builders,
        external_state_root=config.external_state_root,
        builder_deadline_s=config.builder_deadline_ms / 1000,
        max_unsafe_interval_s=config.max_unsafe_interval_s,
        health_check_interval_s=config.health_check_interval_s,
    )


class Upstreams:
    """Opens the clients of one engine; the stack closes them."""

    def __init__(self, stack: AsyncExitStack, metrics: EngineMetrics) -> None:
        self._stack = stack
        self._metrics = metrics

    async def execution_client(self, config: UpstreamConfig, secret: bytes) -> Upstream:
        """The local EL."""
        return await self._open(EL, config, secret, MAX_ANSWER_BYTES)

    async def builders(self, config: EngineConfig, secrets: tuple[bytes, ...]) -> tuple[Upstream, ...]:
        """All builders, in the order of the file, which is the order of preference."""
        pairs = zip(config.builders, secrets, strict=True)
        opened = [await self._open(each.name, each, secret, MAX_BUILDER_ANSWER_BYTES) for each, secret in pairs]
        return tuple(opened)

    async def _open(self, name: str, config: UpstreamConfig, secret: bytes, max_answer_bytes: int) -> Upstream:
        timeout_s = config.timeout_ms / 1000
        upstream = Upstream(
            name, config.url, secret, self._metrics, timeout_s=timeout_s, max_answer_bytes=max_answer_bytes
        )
        return await self._stack.enter_async_context(upstream)
