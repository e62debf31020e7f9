"""Times as arguments of commands."""

import re
from datetime import datetime

import typer

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
