"""A token bucket on a clock that the test sets."""

import pytest

from serving.http.rate_limit import RateLimit


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def taken(limit: RateLimit, num: int, caller: str = "shop") -> int:
    return sum(limit.take(caller) == 0 for _ in range(num))


def test_a_burst_is_allowed_then_the_rate() -> None:
    clock = Clock()
    limit = RateLimit(2.0, 5, clock)
    assert taken(limit, 20) == 5
    clock.now_s += 1.0
    assert taken(limit, 20) == 2
    clock.now_s += 1_000.0
    assert taken(limit, 20) == 5


def test_one_caller_takes_nothing_from_another() -> None:
    limit = RateLimit(1.0, 3, Clock())
    assert taken(limit, 9, "one") == 3
    assert taken(limit, 9, "two") == 3


@pytest.mark.parametrize(("rate", "wait_s"), [(2.0, 1), (1.0, 1), (0.5, 2), (0.3, 4)])
def test_after_the_stated_wait_a_request_is_allowed(rate: float, wait_s: int) -> None:
    clock = Clock()
    limit = RateLimit(rate, 1, clock)
    assert [limit.take("shop"), limit.take("shop")] == [0, wait_s]
    clock.now_s += wait_s
    assert limit.take("shop") == 0


def test_refused_requests_cost_nothing() -> None:
    clock = Clock()
    limit = RateLimit(1.0, 1, clock)
    assert taken(limit, 1_000) == 1
    clock.now_s += 1.0
    assert limit.take("shop") == 0


def test_without_a_rate_everything_is_allowed() -> None:
    assert taken(RateLimit(0.0, 1, Clock()), 1_000) == 1_000
