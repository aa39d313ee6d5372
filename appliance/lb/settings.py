"""The configuration's section `[lb]` as the plane's own settings: milliseconds become seconds, KiB bytes."""

from appliance.config.model import LbConfig
from appliance.lb.checks import CheckRules
from appliance.lb.node import NodeSettings
from appliance.lb.node_health import HealthRules
from appliance.lb.node_set import DeclaredNode
from appliance.lb.queue import QueueRules
from appliance.lb.rate_limit import Rate
from appliance.lb.relay import RelayRules
from appliance.lb.server import FaceSettings
from appliance.lb.service import LbSettings


def lb_settings(config: LbConfig) -> LbSettings:
    """Everything but the nodes."""
    return LbSettings(
        queue=_queue(config),
        relay=_relay(config),
        nodes=_nodes(config),
        checks=CheckRules(config.check_method, config.check_timeout_ms / 1000),
        face=FaceSettings(config.key_header.lower(), config.nodes_api),
        instance_rate=Rate(config.rate_limit, config.rate_burst),
        key_rate=Rate(config.key_rate_limit, config.key_rate_burst),
        fast_track_reserve=config.fast_track_reserve,
        max_body_bytes=config.payload_max_kb * 1024,
        max_held_bytes=config.held_max_mib * 1024 * 1024,
        max_connections=config.max_connections,
        log_requests=config.log_requests,
    )


def declared_nodes(config: LbConfig) -> tuple[DeclaredNode, ...]:
    """The nodes that the configuration names."""
    return tuple(DeclaredNode(node.url, node.workers) for node in config.nodes)


def _queue(config: LbConfig) -> QueueRules:
    return QueueRules(
        fast_track_per_high=config.fast_track_per_high,
        drain_first=config.fast_track_drain_first,
        limits=(config.max_fast_track, config.max_high, config.max_low),
        ageing_s=config.low_ageing_ms / 1000,
    )


def _relay(config: LbConfig) -> RelayRules:
    return RelayRules(
        tries=config.tries,
        queue_timeout_s=config.queue_timeout_ms / 1000,
        handover_timeout_s=config.handover_timeout_ms / 1000,
        proxy_timeout_s=config.proxy_timeout_ms / 1000,
    )


def _nodes(config: LbConfig) -> NodeSettings:
    return NodeSettings(
        default_workers=config.workers,
        max_response_bytes=config.response_max_kb * 1024,
        connect_timeout_s=config.proxy_timeout_ms / 1000,
        health=HealthRules(
            max_fails=config.max_fails,
            ejection_s=config.ejection_s,
            check_interval_s=config.check_interval_s,
            slow_return_s=config.slow_return_s,
        ),
    )
