"""Times of a source as epoch milliseconds UTC."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from stream.errors import SchemaError

MILLIS, MICROS = 1, 1_000
"""Units of numbers: how many of them make a millisecond."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
# September 2001 to the year 5138: outside of it the number is in another unit than the source's document says.
_MIN_MS, _MAX_MS = 10**12, 10**14


def from_number(value: Decimal, unit: int, path: str = "$") -> int:
    """Return epoch milliseconds of a number in `unit`.

    >>> from_number(Decimal(1_767_571_200_123_456), MICROS)
    1767571200123

    Raises:
        SchemaError: If the number can only be meant in another unit.
    """
    if not value.is_finite() or not _MIN_MS * unit <= value < _MAX_MS * unit:
        name = "milliseconds" if unit == MILLIS else "microseconds"
        raise SchemaError("bad_value", f"expected {name} since 1970, got {str(value)[:40]} - at `{path}`")
    return int(value) // unit


def from_iso(text: str, path: str = "$", *, naive_is_utc: bool = False) -> int:
    """Return epoch milliseconds of an ISO 8601 time.

    >>> from_iso("2026-01-05T01:00:00.5+01:00")
    1767571200500

    Args:
        text: The time.
        path: Where it stands, for messages.
        naive_is_utc: Take a time without a zone as UTC, for sources whose document says so.

    Raises:
        SchemaError: If it is no time, or has no zone.
    """
    try:
        parsed = datetime.fromisoformat(text)
        if parsed.tzinfo is None:
            if not naive_is_utc:
                raise SchemaError("bad_value", f"expected a time with a zone, got {text[:40]!r} - at `{path}`")
            parsed = parsed.replace(tzinfo=UTC)
        return (parsed - _EPOCH) // _MS
    except (ValueError, OverflowError) as error:
        raise SchemaError("bad_value", f"expected an ISO 8601 time, got {text[:40]!r} - at `{path}`") from error
