"""The parts of the benchmark of labelling budgets that decide its figures."""

import numpy as np
import pytest

from tests.bench.label_budget import Lists, graded, interval, right_pairs

TYPES = np.array([[0, 0, 0, 0, 2, 2]])


def test_the_top_share_of_each_type_by_the_teacher_is_graded() -> None:
    grade = np.array([[4.0, 0.0, 1.0, 2.0, 3.0, 1.0]])
    teacher = np.array([[0.1, 0.9, 0.8, 0.2, -5.0, -4.0]])
    nan = np.nan
    np.testing.assert_array_equal(graded(grade, TYPES, teacher, 0.5), [[nan, 0.0, 1.0, nan, nan, 1.0]])
    np.testing.assert_array_equal(graded(grade, TYPES, teacher, 1.0), grade)


def test_pairs_of_one_type_count() -> None:
    lists = Lists((), (), np.array([[4.0, 3.0, 2.0, 1.0, 9.0, 8.0]]), TYPES)
    assert right_pairs(np.array([[4.0, 3.0, 2.0, 1.0, -2.0, -1.0]]), lists) == pytest.approx(6 / 7)


def test_the_interval_holds_the_difference_and_widens_with_the_spread_of_worlds() -> None:
    rng = np.random.default_rng(1)
    base = [rng.normal(size=200) for _ in range(4)]
    mean, low, high, by_world = interval([own + 1.0 for own in base], base)
    assert (mean, low, high) == pytest.approx((1.0, 1.0, 1.0))
    assert by_world == pytest.approx([1.0] * 4)
    spread = [own + gain for own, gain in zip(base, (0.0, 1.0, 2.0, 3.0), strict=True)]
    mean, low, high, _ = interval(spread, base)
    assert low < 1.0 < mean < 2.0 < high
