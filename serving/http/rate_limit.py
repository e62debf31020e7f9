"""A token bucket per caller: a steady rate, and a burst after a pause.

Source: token bucket as in RFC 2697, section 3, with one rate.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    level: float
    at_s: float


class RateLimit:
    """The buckets of all callers, full at the beginning."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        """Prepare the buckets.

        Args:
            rate: Requests per second; 0 = no limit.
            burst: Requests that a caller may send at once after a pause.
            clock: Monotonic seconds.
        """
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: dict[Hashable, _Bucket] = {}

    def take(self, caller: Hashable) -> int:
        """Count one request, and return 0 if it is allowed, else the whole seconds after which one will be.

        A request that is not allowed costs nothing. Callers are never forgotten, so they must be few.

        >>> limit = RateLimit(0.5, 2, lambda: 7.0)
        >>> limit.take("shop"), limit.take("shop"), limit.take("shop"), limit.take("other")
        (0, 0, 2, 0)
        """
        if not self._rate:
            return 0
        now_s = self._clock()
        bucket = self._buckets.setdefault(caller, _Bucket(self._burst, now_s))
        bucket.level = min(self._burst, bucket.level + (now_s - bucket.at_s) * self._rate)
        bucket.at_s = now_s
        if bucket.level < 1:
            return math.ceil((1 - bucket.level) / self._rate)
        bucket.level -= 1
        return 0
