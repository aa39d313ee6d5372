"""What `appliance check-config` does with the files that a configuration names: open them, as `run` would."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from appliance.config.model import Config
from appliance.domain.errors import ConfigError
from appliance.flashlog.configured import keeps_a_log
from appliance.flashlog.connection import LOCK_NAME
from appliance.flashlog.files import DATABASE_NAME
from appliance.flashlog.operator_state import STATE_NAME
from appliance.replication.settings import replication_settings
from appliance.secrets import Secrets


def check_files(config: Config) -> None:
    """Raises ConfigError with a line for each file that is no use, the keys in front; changes nothing."""
    problems: list[str] = []
    for check in (Secrets.load, _certificates, _folder):
        problems += _lines_of(check, config)
    if problems:
        raise ConfigError("\n".join(problems))


def check_folder(config: Config) -> None:
    """The same of the folder alone, for `run`: with its key. What cannot be looked at is said where it is opened.

    Who keeps no log there starts without it, too: the nodes and the mode that operators set are then not kept.
    """
    if not keeps_a_log(config):
        return
    try:
        _folder(config)
    except OSError:
        return


def _lines_of(check: Callable[[Config], object], config: Config) -> Iterator[str]:
    try:
        check(config)
    except ConfigError as error:
        yield from str(error).splitlines()


def _certificates(config: Config) -> None:
    tls = replication_settings(config.replication, b"").tls if config.replication is not None else None
    if tls is not None:
        tls.for_listening()
        tls.for_connecting()


def _folder(config: Config) -> None:
    """It may be missing: then it is made. Something else in its place, or above it, is in the way."""
    folder = Path(config.store.folder)
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            raise ConfigError(f"store.folder: {there} is not a folder")
        needed = list(_needed(config, folder, there))
    except OSError as error:
        raise ConfigError(f"store.folder: {folder}: {error.strerror}") from error
    for path in needed:
        if not os.access(path, os.R_OK | os.W_OK):
            raise ConfigError(f"store.folder: this user may not read and write {path}")
    _try_to_write(folder, there)


def _try_to_write(folder: Path, there: Path) -> None:
    """Modes say nothing of a file system that takes no files, as /proc; what this user may not, another may."""
    try:
        with suppress(PermissionError), tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ConfigError(f"store.folder: {folder}: nothing can be written to {there}: {error.strerror}") from error


def _needed(config: Config, folder: Path, there: Path) -> Iterator[Path]:
    """What a start opens or makes, as far as it is there; OSError where the folder may not be entered."""
    if keeps_a_log(config):
        yield there
        yield from (path for path in (folder / LOCK_NAME, folder / DATABASE_NAME) if path.exists())
    if (config.engine is not None or config.lb is not None) and (folder / STATE_NAME).exists():
        yield folder / STATE_NAME
