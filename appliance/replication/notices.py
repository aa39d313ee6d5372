"""What the core noticed, as log lines."""

from typing import Final

from appliance.replication.commands import Notice
from appliance.telemetry.logging import get_logger

log = get_logger("replication")

_ALARMS: Final = {
    "late": "a flashblock came after newer ones of others were committed: its payload ends before it",
    "replaced": "another host's branch is committed: this host's gave way to it",
    "closed": "a payload ends, because nothing can have a majority there",
    "moved": "flashblocks without a majority gave way to committed ones",
    "pruned": "a peer's retention was faster than this host",
    "gap": "a peer's log is followed from its start again",
    "conflict": "a voter contradicts what is committed here",
    "lost_log": "a host has another log than before: it has no vote until it has caught up",
    "other_voters": "a host counts other voters than this one",
}


def log_notice(notice: Notice) -> None:
    """One line; `refused` has its own, with how many."""
    if notice.name == "recovered":
        log.info("this host votes from now on")
    elif notice.name in _ALARMS:
        log.error(_ALARMS[notice.name], **notice.fields)
