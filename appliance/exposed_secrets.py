"""Secret files that everybody on the host can read: said, not refused, because some mounts cannot do better."""

import stat
from dataclasses import dataclass
from pathlib import Path

from appliance.config.model import Config
from appliance.config.secret_files import secret_files
from appliance.telemetry.logging import get_logger

log = get_logger("supervisor")


@dataclass(frozen=True, slots=True)
class Exposed:
    """A file by the key that names it; ``mode`` in octal digits."""

    key: str
    path: str
    mode: str

    def __str__(self) -> str:
        return f"{self.key}: everybody can read {self.path} (mode {self.mode}); 600 or 640 is enough"


def exposed(config: Config) -> list[Exposed]:
    """All of them. What cannot be looked at is not named: reading it says why."""
    found = []
    for key, path in secret_files(config).items():
        try:
            mode = stat.S_IMODE(Path(path).stat().st_mode)
        except OSError:
            continue
        if mode & stat.S_IROTH:
            found.append(Exposed(key, path, f"{mode:03o}"))
    return found


def warn(config: Config) -> None:
    """A log line for each."""
    for each in exposed(config):
        log.warning("a secret file can be read by everybody", key=each.key, file=each.path, mode=each.mode)
