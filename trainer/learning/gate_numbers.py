"""The numbers that a trainer publishes with a version, for gates 1 and 3 to 5.

Predictions before learning are honest, but those of weights that have learned since; the version's own scores of the
newest lists are its own, but flattered, since it has learned most of these lists. So the intervals are those of the
predictions, made worse by what the version loses against them, and never better.

Source: docs/rollout.md, "Gates".
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.intervals import resampled_ratios
from trainer.evaluation.metrics import Floats
from trainer.learning.judged_lists import Measures
from trainer.rollout import judgement

CATEGORIES: Final = 10
"""Categories with a calibration of their own: those with most clicks."""
_RESAMPLES: Final = 1_000
_ONE_SIDED: Final = (0.05, 0.95)


def norm_change(own: float, parent: float | None) -> dict[str, float]:
    """Return the relative change of the norm against the parent's; nothing without a parent or its norm."""
    return _finite({judgement.NORM_CHANGE: own / parent - 1.0}) if parent else {}


def comparison(lists: Measures, newest: Measures, again: Measures, *, has_live: bool) -> dict[str, float]:
    """Return the numbers of gates 3 and 4.

    Args:
        lists: Measures of the judged lists before they were learned.
        newest: Those of the newest of them.
        again: Measures of the same lists by the scores of the version.
        has_live: Whether a version is live, whose logged scores `served_loss` rates.
    """
    return _finite(_prequential(lists, newest, again, has_live=has_live) | _calibration(lists, newest, again))


def shadow(correlation: Floats, changes: NDArray[np.bool_]) -> dict[str, float]:
    """Return the numbers of gate 5, from each list's rank correlation with the live version and change of first item.

    Lists of one item, whose correlation is NaN, are left out.
    """
    defined = ~np.isnan(correlation)
    if not defined.any():
        return {}
    return {
        judgement.SHADOW_LISTS: float(defined.sum()),
        judgement.CORRELATION: float(correlation[defined].mean()),
        judgement.CHURN: float(changes[defined].mean()),
    }


def _prequential(lists: Measures, newest: Measures, again: Measures, *, has_live: bool) -> dict[str, float]:
    led = lists[~np.isnan(lists["lead"])]
    if not led.size:
        return {}
    fall = max(0.0, _mean(newest["lead"] - again["lead"]))
    low, mean, high = _interval(led["lead"], np.ones(led.size), led["client"])
    found = {
        judgement.LISTS: float(led.size),
        judgement.LEAD: mean - fall,
        f"{judgement.LEAD}_low": low - fall,
        f"{judgement.LEAD}_high": high - fall,
    }
    if not has_live:
        return found
    rated = lists[~np.isnan(lists["loss"]) & ~np.isnan(lists["served_loss"])]
    if not rated.size:
        return {}
    rise = max(0.0, _mean(again["loss"] - newest["loss"])) / float(rated["served_loss"].mean())
    low, mean, high = _interval(rated["loss"], rated["served_loss"], rated["client"])
    return found | {
        judgement.LISTS: float(min(led.size, rated.size)),
        judgement.LOSS: mean - 1.0 + rise,
        f"{judgement.LOSS}_low": low - 1.0 + rise,
        f"{judgement.LOSS}_high": high - 1.0 + rise,
    }


def _calibration(lists: Measures, newest: Measures, again: Measures) -> dict[str, float]:
    """Return predicted and observed clicks, overall and by category, the predictions moved to those of the version."""
    if not lists.size:
        return {}
    known = lists[~np.isnan(lists["predicted"])]
    if not known.size:
        return {judgement.HEADS: 0.0}
    before = float(np.nansum(newest["predicted"]))
    factor = float(np.nansum(again["predicted"])) / before if before > 0 else 1.0
    found = {
        judgement.HEADS: 1.0,
        judgement.PREDICTED: factor * float(known["predicted"].sum()),
        judgement.OBSERVED: float(known["observed"].sum()),
    }
    names, own = np.unique(known["category"], return_inverse=True)
    observed = np.bincount(own, weights=known["observed"])
    predicted = np.bincount(own, weights=known["predicted"])
    for place in np.argsort(-observed, kind="stable")[:CATEGORIES].tolist():
        # A name may be cut within a character, and PostgreSQL keeps no NUL in JSON.
        name = names[place].decode(errors="replace").replace("\0", "\ufffd")
        if name:
            found[f"{judgement.PREDICTED}:{name}"] = factor * float(predicted[place])
            found[f"{judgement.OBSERVED}:{name}"] = float(observed[place])
    return found


def _interval(top: Floats, bottom: Floats, client: NDArray[np.uint64]) -> tuple[float, float, float]:
    """Return the ratio of two sums between its one-sided 95 % bounds on either side, by a bootstrap over clients."""
    _, unit = np.unique(client, return_inverse=True)
    own, its = (np.bincount(unit, weights=sums).astype(np.float64) for sums in (top, bottom))
    low, high = np.quantile(resampled_ratios(own, its, resamples=_RESAMPLES), _ONE_SIDED)
    return float(low), float(own.sum() / its.sum()), float(high)


def _mean(values: Floats) -> float:
    """Return the mean of the values that are defined, 0 without any."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else 0.0


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers that a database can hold; a gate waits for one that is missing."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
