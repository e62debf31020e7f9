"""Control limits of a rate by hour of the week, learned from the past of the partition.

For each hour of the week (UTC, 168 in all) the store holds a number of weeks, a mean and a variance: 9 bytes at any
traffic. Weeks beyond the eighth fade, so that the limits follow the shop. An hour has no limits before three weeks.

Every hour is learned, also while a hold is active: a lasting change (a new design, a better model) widens and moves the
limits of its hours within a week, and an outage of one hour fades.

Source: docs/stream.md, Training holds.
"""

import math
import struct

HOURS = 168
MIN_WEEKS = 3
MAX_WEEKS = 8
MIN_COUNT = 200
_SIGMAS = 4.0
_CELL = struct.Struct("<Bff")


class ControlLimits:
    """The usual range of one rate by hour of the week; equal inputs give equal bytes.

    Attributes:
        learned: State for another instance to continue from; empty until an hour is learned.
    """

    def __init__(self, stored: bytes = b"", *, least: float = 0.0, share: float = 0.0) -> None:
        """Continue from the state of another instance.

        Args:
            stored: Its `learned` bytes, empty for a start.
            least: Smallest distance of a limit from the mean.
            share: Smallest distance of a limit from the mean, as a share of the mean.
        """
        self.learned = stored
        self._least = least
        self._share = share

    def learn(self, hour: int, part: int, whole: int) -> None:
        """Add an hour (since the epoch) with the rate `part / whole`; an hour with too few counts is left out."""
        if whole < MIN_COUNT:
            return
        weeks, mean, variance = self._at(hour)
        weeks = min(weeks + 1, MAX_WEEKS)
        off = part / whole - mean
        mean += off / weeks
        variance += (off * (part / whole - mean) - variance) / weeks
        cells = bytearray(self.learned or bytes(HOURS * _CELL.size))
        _CELL.pack_into(cells, hour % HOURS * _CELL.size, weeks, mean, variance)
        self.learned = bytes(cells)

    def contain(self, hour: int, part: int, whole: int) -> bool:
        """Return whether a rate is within its limits, or has none."""
        weeks, mean, variance = self._at(hour)
        if weeks < MIN_WEEKS or whole < MIN_COUNT:
            return True
        between_weeks = variance * weeks / (weeks - 1)
        by_chance = mean * (1 - mean) / whole
        distance = max(self._least, self._share * mean, _SIGMAS * math.sqrt(max(0.0, between_weeks + by_chance)))
        return abs(part / whole - mean) <= distance

    def _at(self, hour: int) -> tuple[int, float, float]:
        if not self.learned:
            return 0, 0.0, 0.0
        weeks, mean, variance = _CELL.unpack_from(self.learned, hour % HOURS * _CELL.size)
        return weeks, mean, variance
