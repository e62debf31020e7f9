"""Waiting ids keep counts and order while rows are reused and tables grow."""

import numpy as np

from tests.trainer.lists import hashes
from trainer.features.waiting_ids import WaitingIds


def test_ids_keep_counts_and_order_while_the_arrays_grow() -> None:
    waiting = WaitingIds(10_000, half_life_s=60)
    for start in range(0, 3_000, 500):
        waiting.add(hashes(str(number) for number in range(start, start + 500)), np.ones(500, np.int64), start)
    waiting.add(hashes(["2999", "7"]), np.array([4, 4]), 3_000)
    assert len(waiting) == 3_000
    ids, counts = waiting.take(waiting.ready(2, 3_000), 3_000)
    np.testing.assert_array_equal(ids.high, hashes(["2999", "7"]).high, "a higher count first")
    assert counts[0] > counts[1] >= 4
    again = WaitingIds.from_arrays(waiting.to_arrays(), 10_000, 60)
    for name, array in waiting.to_arrays().items():
        np.testing.assert_array_equal(array, again.to_arrays()[name])
    assert len(again) == 2_998


def test_rows_of_ids_that_left_are_used_again() -> None:
    waiting = WaitingIds(10_000, half_life_s=60)
    for hour in range(20):
        waiting.add(hashes(f"{hour} {number}" for number in range(900)), np.ones(900, np.int64), hour * 3600)
        waiting.forget(hour * 3600)
    assert len(waiting) == 900
    assert waiting.nbytes < 200_000
