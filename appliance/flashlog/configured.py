"""What the configuration says about the log: whether there is one, and the limits of its retention."""

from appliance.config.model import Config
from appliance.flashlog.retention import RetentionLimits


def retention_limits(config: Config) -> RetentionLimits:
    """Seconds and bytes. Without replication nobody is waited for."""
    limits, replication = config.flashlog, config.replication
    return RetentionLimits(
        max_age_s=limits.retention_hours * 3600,
        max_bytes=limits.retention_mib * 2**20,
        wait_age_s=replication.retention_wait_hours * 3600 if replication else 0,
        wait_bytes=replication.retention_wait_mib * 2**20 if replication else 0,
    )


def keeps_a_log(config: Config) -> bool:
    """Whether a plane is configured that writes the log or reads it."""
    return any(section is not None for section in (config.flashblocks, config.fanout, config.replication))
