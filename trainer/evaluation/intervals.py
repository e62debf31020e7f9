"""Paired differences of a metric per list, with bootstrap intervals over whole visits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.evaluation.metrics import Floats

RESAMPLES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A paired difference, new minus old, with its bootstrap interval."""

    difference: float
    low: float
    high: float
    num_visits: int


def paired_bootstrap(
    new: Floats,
    old: Floats,
    visit: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean difference of a per-list metric and its percentile interval over resampled whole visits.

    Lists where either value is undefined are left out. Items, and lists of one visit, are not independent: only whole
    visits are drawn.

    Raises:
        ValueError: If the columns differ in length, or no list defines both values.
    """
    if not new.shape == old.shape == (len(visit),):
        raise ValueError(f"expected equal columns, got {new.shape}, {old.shape}, {len(visit)}")
    defined = ~(np.isnan(new) | np.isnan(old))
    if not defined.any():
        raise ValueError("no list defines both values")
    names, unit = np.unique(np.asarray(visit, dtype=np.str_)[defined], return_inverse=True)
    sums = np.bincount(unit, weights=(new - old)[defined]).astype(np.float64)
    counts = np.bincount(unit).astype(np.float64)
    means = resampled_ratios(sums, counts, resamples=resamples, seed=seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        difference=float(sums.sum() / counts.sum()), low=float(low), high=float(high), num_visits=names.size
    )


def resampled_ratios(top: Floats, bottom: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return the ratios [resamples] of two sums over units that are drawn with replacement.

    Args:
        top: Sum of each unit.
        bottom: The other sum of each unit.
        resamples: Draws of as many units as there are.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for draw in range(resamples):
        rows = rng.integers(0, top.size, size=top.size)
        ratios[draw] = top[rows].sum() / bottom[rows].sum()
    return ratios
