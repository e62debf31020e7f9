"""Admission of lists under overload: score, answer in incoming order, or refuse, before any work is spent on them.

A list is admitted to the queue if it can be scored in time: the lists ahead of it, times the smoothed time of one. A
list that cannot costs the event loop an answer in incoming order, and that time is taken from the lists that can be
scored. Such answers therefore have a budget, a share of the time; beyond it, requests are refused before their body is
decoded, which costs least.

The queue is estimated from the requests' own arrival, so that a service that fell behind for another reason refuses
what it could only answer late. One estimate holds for all versions: with an estimate for each, the arm of the slower
version would be shed more often, and the arms could not be compared.

Source: Dean and Barroso, "The tail at scale" (CACM 2013); Beyer et al., "Site Reliability Engineering", chapter 21
(load shedding, cheap refusals); RFC 6298 (smoothed mean and deviation).
"""

import math
from enum import Enum
from typing import Final

# RFC 6298, section 2: gains of the mean and of the deviation.
_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_NUM_DEVIATIONS: Final = 2.0
_MOST_MARGIN: Final = 0.5
# Answers in incoming order that a burst may cost before refusals begin; it delays all others as well.
_BURST_S: Final = 0.02


class Decision(Enum):
    """The way in which a request is answered."""

    SCORE = "score"
    INCOMING_ORDER = "incoming_order"
    REFUSE = "refuse"


class ServiceTime:
    """Smoothed seconds that one list takes, and their deviation; zero before the first list."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        self._deviation_s = 0.0
        self._is_known = False

    def add(self, seconds: float) -> None:
        """Take a list into account.

        >>> time = ServiceTime()
        >>> time.add(8.0)
        >>> time.mean_s, time.most_s(1), time.most_s(4)
        (8.0, 12.0, 36.0)
        """
        if not self._is_known:
            self._is_known = True
            self.mean_s, self._deviation_s = seconds, seconds / 2
            return
        self._deviation_s += _DEVIATION_GAIN * (abs(seconds - self.mean_s) - self._deviation_s)
        self.mean_s += _MEAN_GAIN * (seconds - self.mean_s)

    def most_s(self, num: int) -> float:
        """Return the seconds that `num` lists, one after another, hardly exceed.

        Deviations add as variances. The margin is at most half the time of one list: with a wider one, a few slow
        lists would keep all others out, while one that is admitted in vain leaves the queue and costs the thread
        nothing.
        """
        margin_s = _NUM_DEVIATIONS * math.sqrt(num) * self._deviation_s
        return num * self.mean_s + min(margin_s, _MOST_MARGIN * self.mean_s)


class Admission:
    """Estimate of the queue, and the budget of answers in incoming order.

    Every time is a reading of one monotonic clock, in seconds. The inference thread calls `started` and `finished`, the
    event loop everything else.
    """

    def __init__(self, *, budget: float) -> None:
        """Prepare for an empty queue.

        Args:
            budget: Share of the time for answers in incoming order to requests that are shed, in [0, 1).
        """
        self._budget = budget
        self._time = ServiceTime()
        self._started_s: float | None = None
        self._credit_s = _BURST_S
        self._credited_s: float | None = None

    @property
    def mean_s(self) -> float:
        """Return the seconds that a list is expected to take."""
        return self._time.mean_s

    def started(self, now_s: float) -> None:
        """Note that a list is being scored."""
        self._started_s = now_s

    def finished(self, now_s: float) -> None:
        """Note that the list which was started has been scored."""
        if self._started_s is not None:
            self._time.add(now_s - self._started_s)
        self._started_s = None

    def is_idle(self, num_waiting: int) -> bool:
        """Return whether no list is being scored or waits."""
        return self._started_s is None and num_waiting == 0

    def decide(self, due_s: float, num_waiting: int, now_s: float) -> Decision:
        """Return the way in which a request is answered.

        Args:
            due_s: Time until which scores are of use.
            num_waiting: Lists that wait.
            now_s: The time.
        """
        if now_s > due_s:
            return Decision.REFUSE
        # An idle thread tries any list: the estimate of a model that was too slow would never be corrected else.
        if self.is_idle(num_waiting) or now_s + self._needed_s(num_waiting, now_s) <= due_s:
            return Decision.SCORE
        return Decision.INCOMING_ORDER if self._credit(now_s) > 0 else Decision.REFUSE

    def spent(self, seconds: float) -> None:
        """Take the seconds of an answer in incoming order from the budget."""
        self._credit_s = max(self._credit_s - seconds, -_BURST_S)

    def _needed_s(self, num_waiting: int, now_s: float) -> float:
        started_s, ahead = self._started_s, num_waiting + 1
        if started_s is None:
            return self._time.most_s(ahead)
        elapsed_s = now_s - started_s
        # A list beyond its expected time is expected to take as long again as it is over.
        overdue_s = max(elapsed_s - self._time.mean_s, 0.0)
        return max(self._time.most_s(ahead + 1) - elapsed_s, self._time.most_s(ahead)) + overdue_s

    def _credit(self, now_s: float) -> float:
        if self._credited_s is not None:
            self._credit_s = min(self._credit_s + self._budget * (now_s - self._credited_s), _BURST_S)
        self._credited_s = now_s
        return self._credit_s
