"""Admission of lists under overload: score, answer in incoming order, or refuse, before any work is spent on them.

A list is admitted to the queue if it can be scored in time: the lists ahead of it, times the smoothed time of one. A
list that cannot costs the event loop an answer in incoming order, and that time is taken from the lists that can be
scored. Such answers therefore have a budget, a share of the time; beyond it, requests are refused before their body is
decoded, which costs least.

The queue is estimated from the requests' own arrival, so that a service that fell behind for another reason refuses
what it could only answer late. Requests whose headers were read count as well, before their bodies have come to the
queue: a late event loop reads hundreds of them at once, and each would find an empty queue. One estimate holds for all
versions: with an estimate for each, the arm of the slower version would be shed more often, and the arms could not be
compared.

Source: Dean and Barroso, "The tail at scale" (CACM 2013); Beyer et al., "Site Reliability Engineering", chapter 21
(load shedding, cheap refusals); RFC 6298 (smoothed mean and deviation).
"""

import math
from collections import deque
from enum import Enum
from typing import Final

# RFC 6298, section 2: gains of the mean and of the deviation.
_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_NUM_DEVIATIONS: Final = 2.0
_MOST_MARGIN: Final = 0.5
# Answers in incoming order that a burst may cost before refusals begin; it delays all others as well.
_BURST_S: Final = 0.02
# Answer in incoming order that is expected to cost this, until one has been measured.
_SHED_S: Final = 0.0005
# Seconds that such an answer takes with HTTP and the delivery of its impression, for each that it costs the budget.
_WHOLE: Final = 4.0


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


class Expected:
    """Admitted requests that have not come to the queue yet, by the time at which they are due.

    A client that does not send its body is forgotten at that time.
    """

    def __init__(self) -> None:
        self._due_s: deque[float] = deque()

    def add(self, due_s: float) -> None:
        """Expect one more request."""
        self._due_s.append(due_s)

    def remove(self, due_s: float) -> None:
        """Remove a request, if it was not forgotten."""
        if due_s in self._due_s:
            self._due_s.remove(due_s)

    def count(self, now_s: float) -> int:
        """Return the number of requests, and forget those that are overdue."""
        while self._due_s and self._due_s[0] < now_s:
            self._due_s.popleft()
        return len(self._due_s)


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
        self._shed = ServiceTime()
        self._to_score, self._to_shed = Expected(), Expected()

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

    def admit(self, due_s: float, num_waiting: int, now_s: float) -> Decision:
        """Return the way in which a request is answered of which only the headers are known, and expect it.

        Args:
            due_s: Time until which scores are of use.
            num_waiting: Lists that wait.
            now_s: The time.
        """
        to_score, to_shed = self._to_score.count(now_s), self._to_shed.count(now_s)
        decision = self._decide(due_s, num_waiting + to_score, now_s, to_shed)
        if decision is Decision.SCORE:
            self._to_score.add(due_s)
        elif decision is Decision.INCOMING_ORDER:
            self._to_shed.add(due_s)
        return decision

    def admit_unscored(self, due_s: float, now_s: float) -> Decision:
        """Return the way in which a request is answered while nothing is scored, and expect it.

        No list then loses time to an answer in incoming order, so these have no budget; but each delays the next one.

        Args:
            due_s: Time until which an answer is of use.
            now_s: The time.
        """
        if now_s + self._to_shed.count(now_s) * self._shed_s * _WHOLE > due_s:
            return Decision.REFUSE
        self._to_shed.add(due_s)
        return Decision.INCOMING_ORDER

    def decide(self, due_s: float, num_waiting: int, now_s: float) -> Decision:
        """Return the way in which a request is answered that has come to the queue, and do not expect it any more.

        Args:
            due_s: Time until which scores are of use.
            num_waiting: Lists that wait.
            now_s: The time.
        """
        self.forget(due_s)
        return self._decide(due_s, num_waiting, now_s, 0)

    def forget(self, due_s: float) -> None:
        """Take a request out of those that are expected."""
        self._to_score.remove(due_s)
        self._to_shed.remove(due_s)

    def spent(self, seconds: float) -> None:
        """Take the seconds of an answer in incoming order from the budget."""
        self._shed.add(seconds)
        self._credit_s = max(self._credit_s - seconds, -_BURST_S)

    def _decide(self, due_s: float, num_ahead: int, now_s: float, num_shed: int) -> Decision:
        if now_s > due_s:
            return Decision.REFUSE
        # An idle thread tries any list: the estimate of a model that was too slow would never be corrected else.
        if self.is_idle(num_ahead) or now_s + self._needed_s(num_ahead, now_s) <= due_s:
            return Decision.SCORE
        return Decision.INCOMING_ORDER if self._credit(now_s) > num_shed * self._shed_s else Decision.REFUSE

    @property
    def _shed_s(self) -> float:
        return self._shed.mean_s or _SHED_S

    def _needed_s(self, num_ahead: int, now_s: float) -> float:
        started_s, ahead = self._started_s, num_ahead + 1
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
