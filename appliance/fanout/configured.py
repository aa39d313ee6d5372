"""From the section `[fanout]` to the plane's settings."""

from appliance.config.model import FanoutConfig
from appliance.fanout.api_keys import App
from appliance.fanout.service import FanoutSettings


def fanout_settings(config: FanoutConfig, api_keys: tuple[App, ...]) -> FanoutSettings:
    """The same values, with the keys that were read from their files."""
    return FanoutSettings(
        max_subscribers=config.max_subscribers,
        max_per_ip=config.max_per_ip,
        max_lag=config.max_lag,
        proxies=config.proxies,
        ip_header=config.ip_header,
        ping_interval_s=config.ping_interval_s,
        pong_timeout_s=config.pong_timeout_s,
        api_keys=api_keys,
        public_access=config.public_access,
        deflate=config.deflate,
        drain_s=config.drain_s,
    )
