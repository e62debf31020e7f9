import numpy as np
import pytest

from abtest.exact_sums import WIDTH, ExactSums
from abtest.moments import Moments


def vectors(seed: int, number: int, largest: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [[int(each) for each in row] for row in random.integers(0, largest, (number, WIDTH))]


def sums_of(rows: list[list[int]]) -> ExactSums:
    found = ExactSums()
    for row in rows:
        found.add(row)
    return found


@pytest.mark.parametrize("largest", [2, 50, 10**9])
def test_moments_equal_those_of_the_vectors(largest: int) -> None:
    rows = vectors(3, 40, largest)
    found, wanted = sums_of(rows).moments, Moments.of(np.array(rows, dtype=np.float64))
    assert found.n == wanted.n
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(found.comoment, wanted.comoment, rtol=1e-9, atol=1e-9 * largest**2)


def test_who_leaves_leaves_nothing_behind_also_beside_amounts_that_no_float_holds() -> None:
    rows = vectors(4, 10, 9)
    found = sums_of(rows)
    for sign in (1, -1):
        found.add([2**53 - 1] * WIDTH, sign)
        found.add(None, sign)
    assert found == sums_of(rows[::-1])
    for row in rows:
        found.add(row, -1)
    assert found == ExactSums()
    assert found.moments.n == 0


def test_sums_of_parts_are_those_of_the_whole() -> None:
    rows = vectors(5, 12, 5)
    assert sums_of(rows[:5]).plus(sums_of(rows[5:])) == sums_of(rows)


def test_clients_of_several_arms_and_buyers_are_counted() -> None:
    found = ExactSums()
    found.add(None)
    found.add([1, 30, 1, 2, 500, 0, 500, 0, 0, 0, 0, 0])
    found.add([1, 30, 1, 2, 500, 0, 500, 1, 500, 0, 0, 0])
    assert (found.clients, found.multi_arm, found.buyers, found.clicked_buyers) == (2, 1, 2, 1)
