"""List-relative numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from trainer.features import (
    ITEM_COLUMNS,
)
from trainer.features.relative import average_ranks, neighbour_prices, relative

Array = NDArray[np.float32]


def real(values: Array) -> NDArray[np.bool_]:
    return np.ones((1, len(values)), np.bool_)


def ranks_of(values: Array) -> Array:
    (ranks,) = average_ranks(values[None], real(values))
    return np.asarray(ranks, np.float32)


def relative_of(values: Array) -> Array:
    (columns,) = relative(values[None], real(values))
    return np.asarray(columns, np.float32)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_lists_together_have_the_numbers_of_each_alone(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.arange(max(sizes)) < np.array(sizes)[:, None]
    # What stands at padding must not matter, however large.
    items = rng.choice([0.0, 1.5, 2.25, 7.0, 1e6], size=(*mask.shape, len(ITEM_COLUMNS))).astype(np.float32)
    together = [function(items, mask) for function in (relative, neighbour_prices)]
    together.append(average_ranks(items, mask))
    for row, size in enumerate(sizes):
        own, whole = items[row : row + 1, :size], np.ones((1, size), np.bool_)
        alone = [function(own, whole) for function in (relative, neighbour_prices)]
        alone.append(average_ranks(own, whole))
        for ours, theirs in zip(together, alone, strict=True):
            assert np.array_equal(ours[row, :size], theirs[0])


def test_long_lists_have_average_ranks() -> None:
    values = np.arange(600, dtype=np.float32)[:, None] // 2
    assert ranks_of(values)[[0, 1, 598, 599], 0].tolist() == [1.5, 1.5, 599.5, 599.5]


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.sampled_from([0.0, 1.0, 2.5, -3.0])
    )
)
def test_ranks_are_average_ranks(values: NDArray[np.float32]) -> None:
    assert ranks_of(values) == pytest.approx(stats.rankdata(values, method="average", axis=0))


@given(
    hnp.arrays(np.float32, (9, len(ITEM_COLUMNS)), elements=st.floats(0, 10, width=16)), st.permutations(list(range(9)))
)
def test_relative_columns_do_not_know_the_order_of_rows(values: NDArray[np.float32], rows: list[int]) -> None:
    assert (relative_of(values[rows]) == relative_of(values)[rows]).all()


def test_relative_columns_by_hand() -> None:
    values = np.zeros((3, len(ITEM_COLUMNS)), dtype=np.float32)
    values[:, 0] = [1, 3, 2]
    columns = relative_of(values)
    assert columns[:, :3] == pytest.approx(np.array([[0, 1 / 3, -1], [1, 1, 1], [0.5, 2 / 3, 0]]))
    assert columns[:, 3:6] == pytest.approx(np.array([[0, 2 / 3, 0]] * 3))
    assert neighbour_prices(values[None], real(values))[0].tolist() == [[0, -2], [2, 1], [-1, 0]]
