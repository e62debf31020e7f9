"""Control limits: learned week by week, one hour of the week apart from the others."""

import pytest

from stream.join.control_limits import HOURS, MIN_COUNT, MIN_WEEKS, ControlLimits

HOUR = 1_000


def _learned(
    weeks: int, *, part: int = 200, whole: int = 1_000, least: float = 0.0, share: float = 0.0
) -> ControlLimits:
    limits = ControlLimits(least=least, share=share)
    for week in range(weeks):
        limits.learn(HOUR + week * HOURS, part, whole)
    return limits


def test_an_hour_has_no_limits_before_three_weeks() -> None:
    assert _learned(MIN_WEEKS - 1).contain(HOUR, 900, 1_000)
    assert not _learned(MIN_WEEKS).contain(HOUR, 900, 1_000)


def test_limits_belong_to_one_hour_of_the_week() -> None:
    learned = _learned(4)
    assert not learned.contain(HOUR + 7 * HOURS, 900, 1_000)
    assert learned.contain(HOUR + 1, 900, 1_000)


def test_too_few_counts_are_neither_learned_nor_checked() -> None:
    assert _learned(9, part=20, whole=MIN_COUNT - 1).learned == b""
    assert _learned(4).contain(HOUR, 0, MIN_COUNT - 1)


@pytest.mark.parametrize(
    ("least", "share", "highest"),
    [(0.0, 0.0, 250), (0.07, 0.0, 270), (0.0, 0.45, 290)],
)
def test_limits_reach_at_least_the_given_distance(least: float, share: float, highest: int) -> None:
    learned = _learned(5, least=least, share=share)
    assert learned.contain(HOUR, highest, 1_000)
    assert not learned.contain(HOUR, highest + 2, 1_000)


def test_the_state_continues_in_another_instance() -> None:
    first = _learned(4)
    second = ControlLimits(first.learned)
    for limits in (first, second):
        limits.learn(HOUR + 4 * HOURS, 300, 1_000)
    assert first.learned == second.learned
    assert not second.contain(HOUR, 900, 1_000)
