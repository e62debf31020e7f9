"""Sequential test of the sample ratio: it may be read after each client, and its error level holds over all readings.

The counts of the arms under the shares dealt are weighed against a mixture of other shares, Dirichlet around those
dealt. Without a mismatch the ratio of the two likelihoods is a martingale of mean 1, so that by Ville's inequality it
ever exceeds 1 / level with a chance of at most the level.

Source: docs/experiments.md; Lindon and Malek 2022, Anytime-Valid Inference For Multinomial Count Data, section 3.
"""

import math
from collections.abc import Sequence

from abtest.srm import Strata, check_counts

CONCENTRATION = 10_000.0
"""Weight of the shares dealt in the mixture, in clients: the larger, the closer to them its other shares are."""


def log_evidence(strata: Strata, concentration: float = CONCENTRATION) -> float:
    """Return the log of the martingale: evidence that the clients do not follow the weights of their strata.

    The martingales of strata multiply. Clients in arms of weight zero are left out.

    >>> round(log_evidence([([5_200, 4_800], [1, 1])]), 3), round(log_evidence([([5_000, 5_000], [1, 1])]), 3)
    (3.654, -0.347)

    Raises:
        ValueError: If the numbers of arms differ, or one is no number of clients or no weight.
    """
    return sum(_of_stratum(observed, weights, concentration) for observed, weights in strata)


def p_value(strata: Strata, concentration: float = CONCENTRATION) -> float:
    """Return the always-valid p-value of the counts so far, at most 1."""
    return math.exp(min(0.0, -log_evidence(strata, concentration)))


def _of_stratum(observed: Sequence[int], weights: Sequence[float], concentration: float) -> float:
    check_counts(observed, weights)
    largest = max(weights, default=0.0)
    scale = sum(weight / largest for weight in weights if weight > 0)
    counted = [(n, weight / largest / scale) for n, weight in zip(observed, weights, strict=True) if weight > 0]
    total = sum(n for n, _ in counted)
    found = math.lgamma(concentration) - math.lgamma(concentration + total)
    for n, share in counted:
        prior = concentration * share
        found += math.lgamma(prior + n) - math.lgamma(prior) - n * math.log(share)
    return found
