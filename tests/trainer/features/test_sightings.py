"""Aged counts against sums of single sightings."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.features import sightings


@given(st.lists(st.integers(0, 50), min_size=1, max_size=10), st.integers(1, 20))
def test_a_count_is_the_sum_of_the_aged_sightings_below_the_limit(times: list[int], half_life_s: int) -> None:
    count, seen_s = np.zeros(1, np.float32), np.zeros(1, np.uint32)
    for at in sorted(times):
        count = sightings.add(count, seen_s, np.array([1]), at, half_life_s)
        seen_s[0] = at
    now_s = max(times) + 3
    expected = sum(0.5 ** ((now_s - at) / half_life_s) for at in times)
    assert np.isclose(sightings.aged(count, seen_s, now_s, half_life_s)[0], expected, rtol=1e-5)


def test_counts_stop_at_the_limit() -> None:
    many = sightings.add(np.array([3], np.float32), np.zeros(1, np.uint32), np.array([1000]), 0, 60)
    assert many.tolist() == [sightings.LIMIT]


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(-2, 25))
def test_the_lowest_are_the_first_of_all_sorted(values: list[int], count: int) -> None:
    ties = np.arange(len(values))[::-1].copy()
    found = sightings.lowest(np.array(values, np.float64), ties, count)
    assert found.tolist() == sorted(range(len(values)), key=lambda at: (values[at], ties[at]))[: max(count, 0)]
