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


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.sampled_from([0.0, 1.0, 2.5, -3.0])
    )
)
def test_ranks_are_average_ranks(values: NDArray[np.float32]) -> None:
    assert average_ranks(values) == pytest.approx(stats.rankdata(values, method="average", axis=0))


@given(
    hnp.arrays(np.float32, (9, len(ITEM_COLUMNS)), elements=st.floats(0, 10, width=16)), st.permutations(list(range(9)))
)
def test_relative_columns_do_not_know_the_order_of_rows(values: NDArray[np.float32], rows: list[int]) -> None:
    assert (relative(values[rows]) == relative(values)[rows]).all()


def test_relative_columns_by_hand() -> None:
    values = np.zeros((3, len(ITEM_COLUMNS)), dtype=np.float32)
    values[:, 0] = [1, 3, 2]
    columns = relative(values)
    assert columns[:, :3] == pytest.approx(np.array([[0, 1 / 3, -1], [1, 1, 1], [0.5, 2 / 3, 0]]))
    assert columns[:, 3:6] == pytest.approx(np.array([[0, 2 / 3, 0]] * 3))
    assert neighbour_prices(values).tolist() == [[0, -2], [2, 1], [-1, 0]]
