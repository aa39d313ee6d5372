"""The flashblock log: every flashblock on disk before anyone is shown it, in the order it came."""

from appliance.flashlog.metrics import FlashlogMetrics
from appliance.flashlog.retention import RetentionLimits
from appliance.flashlog.service import FlashLog, open_flashlog
from appliance.flashlog.spans import PayloadRecord
from appliance.flashlog.tail import TailLimits
from appliance.flashlog.threads import run_inline

__all__ = [
    "open_flashlog",
    "FlashLog",
    "FlashlogMetrics",
    "PayloadRecord",
    "RetentionLimits",
    "TailLimits",
    "run_inline",
]
