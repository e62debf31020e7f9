"""Sample ratio test: the number of clients in each arm against the shares that were dealt.

If the ratio is off, assignment or logging is broken and the arms cannot be compared. Where shares differ between
periods, each period is a stratum with shares of its own.

Source: docs/experiments.md; Fabijan et al. 2019 (sample ratio mismatch); Mantel and Haenszel 1959 (strata).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from scipy.special import chdtrc

ALERT_P = 0.001
BLOCK_P = 0.0005
_FEWEST = 5.0
# Eigenvalues of the scaled covariance lie between 0 and 1; one of 0 is a direction in which the counts cannot differ.
_NONE = 1e-9

Strata: TypeAlias = Sequence[tuple[Sequence[int], Sequence[float]]]
"""Observed clients of each arm and the arms' shares, for each stratum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """Chi-square test of observed against expected numbers of clients.

    Attributes:
        status: `ok`, `alert`, `blocked` or `undefined`.
        reason: Reason of an undefined result, or of one that is blocked without a test.
    """

    observed: tuple[int, ...]
    expected: tuple[float, ...]
    stat: float | None
    p: float | None
    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstCut:
    """Test of the part of the clients that is furthest from its shares.

    Attributes:
        label: Name of the part.
        ratio: Its test.
        p: Its p-value, times the number of parts tested (Bonferroni), at most 1.
        tested: Number of parts with enough clients for a test.
        untested: Number of the other parts.
    """

    label: str
    ratio: SampleRatio
    p: float
    tested: int
    untested: int


def sample_ratio(observed: Sequence[int], weights: Sequence[float]) -> SampleRatio:
    """Test the observed numbers of clients against the planned weights of the arms above zero.

    >>> sample_ratio([495_000, 505_000], [0.5, 0.5]).status, sample_ratio([5_050, 4_950], [0.5, 0.5]).status
    ('blocked', 'ok')

    Raises:
        ValueError: If the numbers of arms differ, or one is no number of clients or no weight.
    """
    return stratified([(observed, weights)])


def stratified(strata: Strata) -> SampleRatio:
    """Test the clients of all strata together, each stratum against its own weights.

    The differences of the strata are added up and compared with their covariance, which for one stratum is Pearson's
    test. Differences of opposite sign cancel: `worst_cut` tests the strata one by one.

    >>> f"{stratified([([90, 110], [1, 1]), ([300, 100], [3, 1])]).p:.3f}"
    '0.371'

    Raises:
        ValueError: If the numbers of arms differ, or one is no number of clients or no weight.
    """
    for observed, weights in strata:
        check_counts(observed, weights)
    arms = len(strata[0][0]) if strata else 0
    found_K, expected_K = np.zeros(arms), np.zeros(arms)
    covariance = np.zeros((arms, arms))
    for observed, weights in strata:
        share_K = np.array(weights, dtype=np.float64)
        if not share_K.any():
            continue
        # Weights of any size: their sum may be no number.
        share_K, n = share_K / share_K.max(), sum(observed)
        share_K /= share_K.sum()
        found_K += observed
        expected_K += n * share_K
        covariance += n * (np.diag(share_K) - np.outer(share_K, share_K))
    planned_K = np.array([any(weights[arm] > 0 for _, weights in strata) for arm in range(arms)], dtype=bool)
    counts = tuple(round(float(n)) for n in found_K)
    nothing = SampleRatio(
        observed=counts, expected=tuple(map(float, expected_K)), stat=None, p=None, status="undefined"
    )
    unplanned = round(float(found_K[~planned_K].sum()))
    if unplanned:
        return replace(nothing, p=0.0, status="blocked", reason=f"{unplanned} clients in arms of weight zero")
    if planned_K.sum() < 2:
        return replace(nothing, reason="fewer than two arms with clients planned")
    if expected_K[planned_K].min() < _FEWEST:
        return replace(nothing, reason="fewer than 5 clients expected in an arm")
    root_K = np.sqrt(expected_K[planned_K])
    sizes_K, axes_KK = np.linalg.eigh(covariance[np.ix_(planned_K, planned_K)] / np.outer(root_K, root_K))
    parts_K = axes_KK.T @ ((found_K - expected_K)[planned_K] / root_K)
    counted_K = sizes_K > _NONE
    stat = float((parts_K[counted_K] ** 2 / sizes_K[counted_K]).sum())
    p = float(chdtrc(int(counted_K.sum()), stat))
    return replace(nothing, stat=stat, p=p, status=status_of(p))


def check_counts(observed: Sequence[int], weights: Sequence[float]) -> None:
    """Refuse numbers of clients or weights that cannot be.

    Raises:
        ValueError: If the numbers of arms differ, or one is no number of clients or no weight.
    """
    found = f"observed = {list(observed)}, weights = {list(weights)}"
    if len(observed) != len(weights):
        raise ValueError(f"{found}: expected one weight for each arm")
    if not all(0 <= n < math.inf and n == int(n) for n in observed):
        raise ValueError(f"{found}: expected whole numbers of clients, 0 or more")
    if not all(0.0 <= weight < math.inf for weight in weights):
        raise ValueError(f"{found}: expected weights of 0 or more")


def worst_cut(parts: Mapping[str, Strata]) -> WorstCut | None:
    """Return the part of the clients that is furthest from its shares, or None unless two parts can be tested.

    Args:
        parts: Name of each part to its strata.
    """
    ratios = {label: stratified(strata) for label, strata in parts.items()}
    tested = {label: (ratio, ratio.p) for label, ratio in ratios.items() if ratio.p is not None}
    if len(tested) < 2:
        return None
    label, (ratio, p) = min(tested.items(), key=lambda entry: (entry[1][1], -(entry[1][0].stat or 0.0)))
    return WorstCut(
        label=label,
        ratio=ratio,
        p=min(1.0, p * len(tested)),
        tested=len(tested),
        untested=len(ratios) - len(tested),
    )


def status_of(p: float) -> str:
    """Return the status of a test: `blocked` below 0.0005, `alert` below 0.001, else `ok`."""
    return "blocked" if p < BLOCK_P else "alert" if p < ALERT_P else "ok"
