"""Ranges of the log that breakers kept from being learned, and what users may decide about them.

Source: docs/training.md, "Breakers".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stream.errors import ConfigError

RangeStatus = Literal["quarantined", "released", "trained", "lost", "dropped"]
"""`released`: a user gave it back; `trained`: the trainer has learned it; `lost`: retention removed it before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRange:
    """A range of the topic `sessions` that was left out.

    Attributes:
        from_ts: The boundary at which it begins, in watermark time; None for the beginning of the log.
        until_ts: The boundary at which it ends.
        from_cursors: Partition to the first offset of the range and the watermark before it.
        until_offsets: Partition to the first offset behind the range.
        reasons: Names of the breakers that left it out; `hold` for a training hold in the log.
        numbers: Breaker to what it measured.
        num_sessions: Sessions and corrections in the range.
    """

    from_ts: int | None
    until_ts: int
    from_cursors: Mapping[str, tuple[int, int]]
    until_offsets: Mapping[str, int]
    reasons: tuple[str, ...]
    numbers: Mapping[str, Mapping[str, float | None]]
    num_sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedRange:
    """A row of `quarantined_ranges`.

    Attributes:
        number: Number of the range in its lineage, from 1.
        range: What was left out, and why.
        status: `quarantined`, or what a user decided and what the trainer made of it.
        is_open: Whether a breaker is open since this range: all later ranges are left out and nothing is published.
        created_ts: Time at which the trainer left it out, epoch milliseconds.
        row_version: Number of the writes of the row.
    """

    lineage: str
    number: int
    range: LogRange
    status: RangeStatus
    is_open: bool
    created_ts: int
    row_version: int


def decided(lineage: str, ranges: Mapping[int, QuarantinedRange], number: int) -> QuarantinedRange:
    """Return the range that a command decides about.

    Raises:
        ConfigError: If there is no such range, or it is decided already.
    """
    found = ranges.get(number)
    if found is None:
        known = f"its ranges are {min(ranges)} to {max(ranges)}" if ranges else "nothing is in quarantine"
        raise ConfigError(f"range = {number}: lineage {lineage} has no such range; {known}")
    if found.status != "quarantined":
        raise ConfigError(f"range = {number}: it is {found.status}, expected quarantined")
    return found
