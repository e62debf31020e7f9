"""Logging of every process: one format, to standard error.

Modules log through `logging.getLogger(__name__)`. A request id or record id that is bound with
`structlog.contextvars.bound_contextvars` is part of every line that is logged meanwhile.

Source: structlog documentation, "Standard Library Logging", rendering through `ProcessorFormatter`.
"""

import logging
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TextIO

# Library loggers that write a line for each fetch, request or rebalance, or log as errors what is retried.
_ONLY_ERRORS = (
    "aiokafka.consumer.fetcher",
    "faust.transport.drivers.aiokafka",
    "kafka.producer.sender",
    "mode.utils.logging",
    # A line for each malformed request lets anyone fill the disk; shelfwise_serving_closed_connections counts them.
    "uvicorn.error",
)
# What kafka-python reports about its connections and records is retried, or raised to the caller as an error with a
# cause.
_SILENT = ("kafka.net", "kafka.cluster", "kafka.producer.producer_batch")
_OWN = ("shelfwise", "stream", "abtest", "trainer", "serving", "deploy")
_ONLY_WARNINGS = ("kafka", "uvicorn.access", "alembic")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingSettings:
    """Settings of the log lines of a process.

    Attributes:
        format: `console` for people, `json` for machines: one object per line.
        level: Least severe level of Shelfwise's own lines. Libraries log from `warning` on.
    """

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class _Lines(logging.Formatter):
    """The lines of one stream. structlog is imported with the first line: a command that logs nothing starts faster."""

    def __init__(self, settings: LoggingSettings, *, colors: bool) -> None:
        super().__init__()
        self._settings, self._colors = settings, colors

    def format(self, record: logging.LogRecord) -> str:
        return self._processors.format(record)

    @cached_property
    def _processors(self) -> logging.Formatter:
        import structlog

        shared: list[structlog.typing.Processor] = [
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ]
        final: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
        if self._settings.format == "json":
            final += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        else:
            final.append(
                structlog.dev.ConsoleRenderer(
                    colors=self._colors,
                    pad_event_to=0,
                    pad_level=False,
                    # The default prints the local variables of every frame, secrets among them.
                    exception_formatter=structlog.dev.plain_traceback,
                )
            )
        return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final)


def configure(settings: LoggingSettings, stream: TextIO | None = None) -> None:
    """Send the log lines of this process to standard error in the format of the settings; replaces earlier handlers.

    Args:
        settings: Format and level.
        stream: Standard error if it is None.
    """
    output = stream or sys.stderr
    handler = logging.StreamHandler(output)
    handler.setFormatter(_Lines(settings, colors=output.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in _OWN:
        logging.getLogger(name).setLevel(settings.level.upper())
    for name in _ONLY_WARNINGS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _ONLY_ERRORS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
