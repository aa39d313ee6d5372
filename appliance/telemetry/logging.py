"""One line per event, with its fields: text for people, JSON for machines.

structlog, because fields are first class there and the two renderings are one setting apart. Lines go to
standard error, so that commands can print their results on standard output. What libraries log through
the standard library's `logging` comes out in the same form.
"""

import logging
import sys
from dataclasses import dataclass
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LogTarget:
    """Where lines go since `configure`, for those who render their own (`request_lines`)."""

    stream: TextIO
    json: bool
    shows_info: bool


_targets: list[LogTarget] = []  # the last one counts; the log is the process's


def current_target() -> LogTarget | None:
    """None before `configure`."""
    return _targets[-1] if _targets else None


def get_logger(plane: str) -> FilteringBoundLogger:
    """A logger whose lines carry `plane`. A call's first argument is the event, its keywords the fields."""
    return cast("FilteringBoundLogger", structlog.get_logger(plane=plane))


def configure(level: LogLevel = "info", log_format: LogFormat = "text", stream: TextIO | None = None) -> None:
    """Set level and form for the whole process, the libraries' log lines included."""
    stream = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    shared = _shared_processors()
    renderers = _renderers(log_format, colors=stream.isatty())
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(number, shared, renderers, stream)
    _targets[:] = [LogTarget(stream, log_format == "json", number <= logging.INFO)]


def _shared_processors() -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]


def _renderers(log_format: LogFormat, *, colors: bool) -> list[Processor]:
    if log_format == "json":
        # rollup-boost's JSON lines and its users' queries say "message".
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=str),
        ]
    return [
        structlog.dev.ConsoleRenderer(
            colors=colors,
            timestamp_key="time",
            pad_event_to=28,
            sort_keys=False,
            # The default also prints local variables: among them secrets.
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]


def _configure_libraries(number: int, shared: list[Processor], renderers: list[Processor], stream: TextIO) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries talk at INFO about what our own lines say already.
    root.setLevel(max(number, logging.WARNING))
