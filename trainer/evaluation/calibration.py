"""Calibration: whether probabilities match frequencies."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.evaluation.metrics import Floats, Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Items of similar probability: their number, mean probability and share of positives."""

    num_items: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Match of probabilities and frequencies.

    Attributes:
        ratio: Sum of the probabilities over the number of positives; None without a positive.
        ece: Expected calibration error: mean distance of predicted and observed over bins of equal mass.
        bins: The bins, from low to high probability.
    """

    ratio: float | None
    ece: float
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryCalibration:
    """Calibration of the lists of one query category; "" = unknown."""

    category: str
    num_lists: int
    calibration: Calibration


def calibration(probability: Floats, positive: Mask, bins: int = 15) -> Calibration:
    """Return the calibration of probabilities, with bins of equal mass.

    Raises:
        ValueError: If there is no item, or the columns differ in length.
    """
    if probability.shape != positive.shape or probability.size == 0:
        raise ValueError(f"expected equal columns that are not empty, got {probability.shape}, {positive.shape}")
    rows = np.argsort(probability, kind="stable")
    found = tuple(
        CalibrationBin(
            num_items=part.size,
            predicted=float(probability[part].mean()),
            observed=float(positive[part].mean()),
        )
        for part in np.array_split(rows, min(bins, rows.size))
    )
    total = int(np.count_nonzero(positive))
    gaps = sum(abs(each.predicted - each.observed) * each.num_items for each in found)
    return Calibration(
        ratio=None if total == 0 else float(probability.sum() / total), ece=float(gaps / rows.size), bins=found
    )


def by_category(
    probability_BL: Floats, positive_BL: Mask, mask_BL: Mask, category: Sequence[str], *, top: int = 10, bins: int = 15
) -> tuple[CategoryCalibration, ...]:
    """Return the calibration of the categories with most lists, the largest first.

    Args:
        probability_BL: Probability of each item.
        positive_BL: Positive items.
        mask_BL: Real items of the lists that count; a list without any plays no part.
        category: Query category of each list.
        top: Number of categories.
        bins: Bins of equal mass in each category.
    """
    names = np.asarray(category, dtype=np.str_)
    counts = Counter(names[mask_BL.any(axis=1)].tolist())
    found = []
    for name, num_lists in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:top]:
        own = mask_BL & (names == name)[:, None]
        found.append(
            CategoryCalibration(
                category=name,
                num_lists=num_lists,
                calibration=calibration(probability_BL[own], positive_BL[own], bins),
            )
        )
    return tuple(found)
