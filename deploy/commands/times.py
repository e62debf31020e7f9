"""Times and durations as arguments of commands, and times as commands print them."""

import re
from datetime import UTC, datetime

import typer

from stream.schemas.times import DAY_MS, HOUR_MS, MINUTE_MS

_UNIT_MS = {"s": 1_000, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
TIME_HELP = "ISO 8601 with zone, or epoch milliseconds."


def parse_time(text: str | None, option: str) -> int | None:
    """Return the epoch milliseconds of a time that was given as `option`.

    Raises:
        typer.BadParameter: If the text is no time, with the name of the option.

    >>> parse_time("2026-01-01T01:00+01:00", "--from")
    1767225600000
    """
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,15}", text):
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is neither ISO 8601 nor epoch milliseconds", param_hint=option) from error
    if found.tzinfo is None:
        raise typer.BadParameter(f"'{text}' names no zone; add Z or +02:00", param_hint=option)
    return int(found.timestamp() * 1_000)


def iso_time(moment_ms: int) -> str:
    """Return epoch milliseconds as ISO 8601 in UTC, which `parse_time` takes.

    >>> iso_time(1_767_225_600_000)
    '2026-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(moment_ms / 1_000, UTC).isoformat(timespec="seconds")


def parse_duration(text: str, option: str) -> int:
    """Return the milliseconds of a duration that was given as `option`, such as 90m, 24h or 7d.

    Raises:
        typer.BadParameter: If the text is no duration, with the name of the option.

    >>> parse_duration("90m", "--every"), parse_duration("0.5d", "--every")
    (5400000, 43200000)
    """
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([smhd])", text)
    if found is None:
        raise typer.BadParameter(f"'{text}' is no duration such as 90m, 24h or 7d", param_hint=option)
    return round(float(found[1]) * _UNIT_MS[found[2]])
