import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from abtest.sequential_srm import log_evidence, p_value


def test_equals_the_likelihood_of_two_arms_integrated_over_the_mixture() -> None:
    prior = stats.beta(30.0, 70.0)
    ratio, _ = integrate.quad(
        lambda share: (
            prior.pdf(share) * math.exp(stats.binom.logpmf(52, 130, share) - stats.binom.logpmf(52, 130, 0.3))
        ),
        0.0,
        1.0,
    )
    assert log_evidence([([52, 78], [3, 7])], concentration=100.0) == pytest.approx(math.log(ratio), rel=1e-9)


def test_equals_the_dirichlet_multinomial_of_scipy() -> None:
    counts, shares = [410, 290, 300], np.array([0.4, 0.3, 0.3])
    expected = stats.dirichlet_multinomial.logpmf(counts, 10_000 * shares, np.array(1_000)) - stats.multinomial.logpmf(
        counts, 1_000, shares
    )
    assert log_evidence([(counts, list(shares))]) == pytest.approx(expected, abs=1e-8)


def test_epochs_multiply_and_their_opposite_signs_do_not_cancel() -> None:
    strata = [([5_400, 4_600], [1, 1]), ([4_600, 5_400], [1, 1])]
    assert log_evidence(strata) == pytest.approx(2 * log_evidence(strata[:1]))
    assert p_value(strata) < 0.0005
    assert p_value([([10_000, 10_000], [1, 1])]) == 1.0


def test_it_errs_at_most_at_its_level_when_it_is_read_after_each_hundred_clients() -> None:
    """Read 200 times, a test of a fixed number of clients is wrong in a third of the experiments."""
    random = np.random.default_rng(8)
    runs, looks, each = 2_000, 200, 100
    treated = np.cumsum(random.binomial(each, 0.3, (runs, looks)), axis=1)
    n = each * np.arange(1, looks + 1)
    prior = (10_000 * 0.3, 10_000 * 0.7)
    evidence = (
        special.betaln(prior[0] + treated, prior[1] + n - treated)
        - special.betaln(*prior)
        - treated * math.log(0.3)
        - (n - treated) * math.log(0.7)
    )
    assert evidence[0, 3] == pytest.approx(log_evidence([([int(treated[0, 3]), 400 - int(treated[0, 3])], [3, 7])]))
    level = 0.05
    assert (evidence >= math.log(1 / level)).any(axis=1).mean() <= level
    z = (treated - 0.3 * n) / np.sqrt(0.21 * n)
    assert (np.abs(z) > 1.96).any(axis=1).mean() > 0.3


def test_half_a_percent_is_found_in_a_million_clients_and_arms_of_weight_zero_are_left_out() -> None:
    assert p_value([([495_000, 505_000], [1, 1])]) < 0.0005
    assert p_value([([495_000, 505_000, 3], [1, 1, 0])]) == p_value([([495_000, 505_000], [1, 1])])


def test_no_clients_are_no_evidence() -> None:
    assert p_value([([0, 0], [1, 1])]) == 1.0
    assert p_value([]) == 1.0


def test_without_a_planned_arm_there_is_no_evidence() -> None:
    assert log_evidence([([5, 5], [0.0, 0.0])]) == 0.0
