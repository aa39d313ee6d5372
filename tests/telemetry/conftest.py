"""The log is the process's: what these tests make of it is not to be that of whatever test comes next in it."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from appliance.telemetry import logging as telemetry


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    root, targets, config = logging.getLogger(), telemetry._targets[:], structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**config)
    root.handlers[:], telemetry._targets[:] = handlers, targets
    root.setLevel(level)
