"""What a rate usually is at an hour of the week, learned from the partition's own past.

Per hour of the week (UTC, 168 of them) a count of weeks, a mean and a variance: 9 bytes, whatever the traffic. Weeks
beyond the eighth fade, so that a band follows its shop. Nothing is judged before three weeks of an hour were seen.

All hours are learned, held ones too: a change that lasts (a new design, a better model) widens and moves the band of
each hour by itself the week after, while an outage of an hour fades.

Source: STREAM.md 11.
"""

import math
import struct

HOUR_MS = 3_600_000
HOURS = 168
MIN_WEEKS = 3
MAX_WEEKS = 8
MIN_COUNT = 200
_SIGMAS = 4.0
_CELL = struct.Struct("<Bff")


class Bands:
    """The usual range of one rate by hour of the week; equal inputs give equal bytes.

    Attributes:
        learned: What another one needs to go on; empty until something was learned.
    """

    def __init__(self, stored: bytes = b"", *, least: float = 0.0, share: float = 0.0) -> None:
        """Take over what was learned.

        Args:
            stored: Content of another one, empty for none.
            least: A band reaches at least this far to either side of its mean.
            share: And at least this share of its mean.
        """
        self.learned = stored
        self._least = least
        self._share = share

    def learn(self, hour: int, part: int, whole: int) -> None:
        """Add one hour (since the epoch) in which `part` of `whole` had it; too few to tell are left out."""
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

    def holds(self, hour: int, part: int, whole: int) -> bool:
        """Return whether a rate is within its band, or cannot be judged."""
        weeks, mean, variance = self._at(hour)
        if weeks < MIN_WEEKS or whole < MIN_COUNT:
            return True
        between_weeks = variance * weeks / (weeks - 1)
        by_chance = mean * (1 - mean) / whole
        reach = max(self._least, self._share * mean, _SIGMAS * math.sqrt(max(0.0, between_weeks + by_chance)))
        return abs(part / whole - mean) <= reach

    def _at(self, hour: int) -> tuple[int, float, float]:
        if not self.learned:
            return 0, 0.0, 0.0
        weeks, mean, variance = _CELL.unpack_from(self.learned, hour % HOURS * _CELL.size)
        return weeks, mean, variance
