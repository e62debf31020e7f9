"""The parts of the benchmarks of labelling budgets that decide their figures."""

import numpy as np
import pytest

from deploy.simulation.marketplace.world import TYPES as SHOP_TYPES
from tests.bench.page_rankers import Lists, anchored, graded, incoming, quality, right_pairs
from trainer.features.item_types import ITEM_TYPES

TYPES = np.array([[0, 0, 0, 0, 2, 2]])


def test_the_types_of_the_shop_have_the_places_of_those_of_models() -> None:
    assert ITEM_TYPES[: len(SHOP_TYPES)] == SHOP_TYPES


def test_the_top_share_of_each_type_by_the_teacher_is_graded() -> None:
    grade = np.array([[4.0, 0.0, 1.0, 2.0, 3.0, 1.0]])
    teacher = np.array([[0.1, 0.9, 0.8, 0.2, -5.0, -4.0]])
    nan = np.nan
    np.testing.assert_array_equal(graded(grade, TYPES, teacher, 0.5), [[nan, 0.0, 1.0, nan, nan, 1.0]])
    np.testing.assert_array_equal(graded(grade, TYPES, teacher, 1.0), grade)


def test_the_searches_for_anchors_grade_what_they_ask_for() -> None:
    # The anchor is the third of four products, of grade 2, and both videos are worse.
    grade, nan = np.array([[4.0, 3.0, 2.0, 1.0, 1.0, 0.0]]), np.nan
    found = anchored(grade, TYPES, np.array([[4.0, 3.0, 2.0, 1.0, 9.0, 8.0]]))
    np.testing.assert_array_equal(found, [[nan, nan, 2.0, nan, 1.0, 0.0]])
    # Of equal grades the search goes on behind, so the first video is not asked for.
    better = np.array([[4.0, 3.0, 0.0, 1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(
        anchored(better, TYPES, np.array([[4.0, 3.0, 2.0, 1.0, 9.0, 8.0]])), [[nan, nan, 0.0, nan, nan, 0.0]]
    )


def test_pairs_of_one_type_count() -> None:
    lists = Lists((), np.array([[4.0, 3.0, 2.0, 1.0, 9.0, 8.0]]), TYPES)
    assert right_pairs(np.array([[4.0, 3.0, 2.0, 1.0, -2.0, -1.0]]), lists) == pytest.approx(6 / 7)


def test_the_incoming_order_is_that_of_the_rows() -> None:
    grade = np.array([[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    found = quality(incoming(Lists((), grade, TYPES)), grade)
    assert found == pytest.approx(1 / np.log2(3))
