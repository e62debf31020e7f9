"""Distinct slots."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.features.distinct import distinct


@given(st.lists(st.integers(0, 40), max_size=9), st.sampled_from([1, 7, 1_000_003]))
def test_slots_are_those_of_a_sort(numbers: list[int], step: int) -> None:
    slots = step * np.array(numbers, np.int64)
    found, place = distinct(slots)
    assert found.tolist() == sorted(set(slots.tolist()))
    assert found[place].tolist() == slots.tolist()
