import numpy as np
import pytest

from stream.backoff import Backoff


def test_waits_lie_between_half_of_their_bound_and_the_bound() -> None:
    generator = np.random.default_rng(7)
    backoff = Backoff(0.5, 30.0, random=generator.random)
    bounds_s = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    for bound_s in bounds_s:
        assert bound_s / 2 <= backoff.next_s() <= bound_s


def test_two_processes_wait_differently() -> None:
    first, second = (Backoff(random=np.random.default_rng(seed).random) for seed in (1, 2))
    assert [first.next_s() for _ in range(4)] != [second.next_s() for _ in range(4)]


@pytest.mark.parametrize(("first_s", "longest_s"), [(0.0, 1.0), (2.0, 1.0)])
def test_bounds_that_do_not_grow_are_refused(first_s: float, longest_s: float) -> None:
    with pytest.raises(ValueError, match="first_s"):
        Backoff(first_s, longest_s, random=lambda: 0.5)
