"""Clicks and orders of another order of the lists, from a log whose places were drawn with known chances.

A label counts where the other order puts the item into the very place in which it was shown, divided by the chance of
that place. In expectation this is the number of labels that the other order would have had, if a label depends on the
item and its place alone. The estimate is self-normalised: the sum of the weights stands in place of its expectation.

Source: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen 2018, Offline Evaluation of Ranking Policies with Click
Models, item-position estimator; Swaminathan and Joachims 2015, The Self-Normalized Estimator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.evaluation.intervals import RESAMPLES
from trainer.evaluation.metrics import Floats, Mask

MIN_EFFECTIVE_PLACES = 50.0
"""Fewer effective places give no figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """Estimated labels per list on the first ranks, if lists had been shown in a ranker's order.

    Attributes:
        mean: None with fewer effective places than `MIN_EFFECTIVE_PLACES`.
        low, high: Bounds of the 95 % bootstrap interval over visits.
        effective_places: (sum w)^2 / sum w^2 over the weights w of the places that agree.
        support: Sum of the weights by its expectation. Far below 1, the log cannot hold much of the ranker's order.
    """

    mean: float | None
    low: float | None
    high: float | None
    effective_places: float
    support: float


def is_randomised(propensity_BL: Floats, mask_BL: Mask) -> bool:
    """Return whether any item could have stood in another place."""
    return bool((propensity_BL[mask_BL] < 1).any())


def policy_value(
    rank_BL: Floats,
    *,
    shown_BL: Floats,
    propensity_BL: Floats,
    label_BL: Floats,
    mask_BL: Mask,
    visit: Sequence[str],
    k: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PolicyValue:
    """Return the estimated number of labels per list on the first k ranks of another order.

    Args:
        rank_BL: Ranks in the other order, without ties.
        shown_BL: Places in which the items were shown, from 1.
        propensity_BL: Chance of the place of each item.
        label_BL: Labels, 0 or 1.
        mask_BL: Real items.
        visit: Unit of the bootstrap of each list.
        k: Ranks that count.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If a propensity is not in (0, 1].
    """
    chances = propensity_BL[mask_BL]
    if not ((chances > 0) & (chances <= 1)).all():
        raise ValueError("propensities: expected values in (0, 1]")
    agrees = mask_BL & (rank_BL == shown_BL) & (rank_BL <= k)
    weight = np.where(agrees, 1 / np.where(mask_BL, propensity_BL, 1.0), 0.0)
    places = np.minimum(mask_BL.sum(axis=1), k).astype(np.float64)
    _, unit = np.unique(np.asarray(visit, dtype=np.str_), return_inverse=True)
    # By visit: labels, weights, places, lists.
    sums: Floats = np.stack(
        [
            np.bincount(unit, weights=column).astype(np.float64)
            for column in ((weight * label_BL).sum(axis=1), weight.sum(axis=1), places, np.ones(len(places)))
        ]
    )
    squares = float((weight**2).sum())
    effective = float(weight.sum()) ** 2 / squares if squares else 0.0
    support = float(sums[1].sum() / sums[2].sum()) if sums[2].sum() else 0.0
    if effective < MIN_EFFECTIVE_PLACES:
        return PolicyValue(mean=None, low=None, high=None, effective_places=effective, support=support)
    rng = np.random.default_rng(seed)
    draws = np.array([_value(sums[:, rng.integers(0, sums.shape[1], sums.shape[1])]) for _ in range(resamples)])
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return PolicyValue(mean=_value(sums), low=float(low), high=float(high), effective_places=effective, support=support)


def _value(sums: Floats) -> float:
    """Return labels per list: labels per weight times places per list; NaN if no place agrees."""
    labels, weights, places, lists = sums.sum(axis=1)
    return float(labels / weights * places / lists) if weights else float("nan")
