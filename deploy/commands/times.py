"""Times on the command line."""

import re
from datetime import datetime

import typer

TIME_HELP = "ISO 8601 with zone, or epoch milliseconds."


def moment(text: str | None, option: str) -> int | None:
    """Return epoch milliseconds of what a user gave as `option`.

    Raises:
        typer.BadParameter: Naming the option and the text.

    >>> moment("2026-01-01T01:00+01:00", "--from")
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
