"""Rows of several lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.features.ragged import Ragged


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(1, 4))
def test_rows_are_those_of_a_loop(sizes: list[int], limit: int) -> None:
    rows = Ragged.of_sizes(sizes)
    expected = [(number, place) for number, size in enumerate(sizes) for place in range(size)]
    assert list(zip(rows.of.tolist(), rows.place.tolist(), strict=True)) == expected
    assert [rows.cuts[number + 1] - rows.cuts[number] for number in range(len(sizes))] == sizes
    assert rows.mask().tolist() == [[place < size for place in range(max(sizes))] for size in sizes]
    chosen = rows.choose(np.flatnonzero(rows.place < limit))
    assert np.diff(chosen.cuts).tolist() == [min(size, limit) for size in sizes]
