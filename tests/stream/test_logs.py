import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from stream.logs import LoggingSettings, configure


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    known = {name: logging.getLogger(name).level for name in ("stream", "kafka", "kafka.net", "kafka.cluster")}
    yield
    root.handlers, root.level = handlers, level
    for name, before in known.items():
        logging.getLogger(name).setLevel(before)


def test_json_lines_carry_level_name_time_and_the_bound_id() -> None:
    output = io.StringIO()
    configure(LoggingSettings(format="json"), output)
    with structlog.contextvars.bound_contextvars(request_id="q-1"):
        logging.getLogger("stream.test").info("lag is %d", 3)
    line = json.loads(output.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "lag is 3", "level": "info", "logger": "stream.test", "request_id": "q-1"}


def test_an_exception_is_one_json_line() -> None:
    output = io.StringIO()
    configure(LoggingSettings(format="json"), output)
    try:
        int("no number")
    except ValueError:
        logging.getLogger("stream.test").exception("failed")
    [line] = output.getvalue().splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_console_lines_are_for_people() -> None:
    output = io.StringIO()
    configure(LoggingSettings(format="console"), output)
    logging.getLogger("stream.test").warning("lag is %d", 3)
    assert "lag is 3" in output.getvalue()
    assert "stream.test" in output.getvalue()
    assert "\x1b" not in output.getvalue()


def test_levels_hold_for_own_lines_and_libraries_warn() -> None:
    output = io.StringIO()
    configure(LoggingSettings(level="error"), output)
    logging.getLogger("stream.test").warning("own warning")
    logging.getLogger("kafka").info("library line")
    logging.getLogger("kafka").warning("library warning")
    assert "own warning" not in output.getvalue()
    assert "library line" not in output.getvalue()
    assert "library warning" in output.getvalue()


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_holds_no_values_of_variables(form: Literal["console", "json"]) -> None:
    output = io.StringIO()
    configure(LoggingSettings(format=form), output)

    def sign_in(password: str) -> None:
        raise RuntimeError(f"refused after {len(password)} characters")

    try:
        sign_in("".join(["cana", "ry"]))
    except RuntimeError:
        logging.getLogger("stream.test").exception("failed")
    assert "refused after 6 characters" in output.getvalue()
    assert "canary" not in output.getvalue()


def test_connections_of_kafka_python_are_not_logged() -> None:
    output = io.StringIO()
    configure(LoggingSettings(), output)
    logging.getLogger("kafka.net.transport").error("socket closed")
    logging.getLogger("kafka.producer").warning("a batch expired")
    assert "socket closed" not in output.getvalue()
    assert "a batch expired" in output.getvalue()
