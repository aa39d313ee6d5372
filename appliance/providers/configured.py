"""From a `[[providers]]` table to a group's settings."""

from appliance.config.model import ProvidersConfig
from appliance.providers.endpoint_health import Thresholds
from appliance.providers.settings import EndpointSettings, GroupSettings


def group_settings(config: ProvidersConfig) -> GroupSettings:
    """The same values, in seconds."""
    return GroupSettings(
        name=config.name,
        endpoints=tuple(EndpointSettings(each.name, each.url) for each in config.endpoints),
        thresholds=Thresholds(
            transient_error_threshold=config.transient_error_threshold,
            mempool_drop_threshold=config.mempool_drop_threshold,
            mempool_drop_window_s=config.mempool_drop_window_s,
            max_head_age_s=config.max_head_age_s,
            max_head_lag=config.max_head_lag,
            return_after_s=config.return_after_s,
        ),
        chain_id=config.chain_id,
        probe_interval_s=config.probe_interval_s,
        poll_interval_s=config.poll_interval_ms / 1000,
        timeout_s=config.timeout_ms / 1000,
        deadline_s=config.deadline_ms / 1000,
        max_missed_heads=config.max_missed_heads,
        max_clients=config.max_clients,
    )
