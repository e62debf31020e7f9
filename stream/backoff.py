"""Exponential back-off with jitter, for every retry of a broker, a database or a child process."""

from collections.abc import Callable

FIRST_S = 0.5
LONGEST_S = 30.0


class Backoff:
    """Waiting times between retries: each upper bound is twice the one before, up to `longest_s`.

    A waiting time lies between half of its upper bound and the bound. Processes that lost the same server therefore do
    not return to it at the same moment.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("equal jitter").

    Example:
        >>> backoff = Backoff(0.5, 4.0, random=lambda: 1.0)
        >>> [backoff.next_s() for _ in range(5)]
        [0.5, 1.0, 2.0, 4.0, 4.0]
        >>> backoff.reset()
        >>> backoff.next_s()
        0.5
    """

    def __init__(self, first_s: float = FIRST_S, longest_s: float = LONGEST_S, *, random: Callable[[], float]) -> None:
        """Start with the shortest waiting time.

        Args:
            first_s: First upper bound, in seconds.
            longest_s: Largest upper bound, in seconds.
            random: Source of uniform numbers in [0, 1).
        """
        if not 0 < first_s <= longest_s:
            raise ValueError(f"expected 0 < first_s <= longest_s, got first_s = {first_s}, longest_s = {longest_s}")
        self._first_s = first_s
        self._longest_s = longest_s
        self._random = random
        self._bound_s = first_s

    def next_s(self) -> float:
        """Return the seconds to wait before the next retry, and double the bound for the one after."""
        bound_s = self._bound_s
        self._bound_s = min(2 * bound_s, self._longest_s)
        return bound_s * (0.5 + 0.5 * self._random())

    def reset(self) -> None:
        """Start over, after a success."""
        self._bound_s = self._first_s
