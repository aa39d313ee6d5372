"""From the sections `[flashlog]` and `[replication]` to the limits of retention."""

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
