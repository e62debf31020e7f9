"""Bands: whether a share or a loss of a window is outside of what the past of the lineage explains.

A share is compared on the scale asin(sqrt(share)), on which the standard deviation of a share of n trials is about
1 / (2 sqrt(n)) at any share. The past is described by its median and its median absolute deviation, so a few odd
windows move nothing.

Sources: Anscombe 1948, The transformation of Poisson, binomial and negative-binomial data; Rousseeuw and Croux 1993,
Alternatives to the Median Absolute Deviation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Kind = Literal["label", "null", "loss"]

_MAD_TO_SD: Final = 1.4826
_LEAST_SPREAD: Final = 0.05
"""Standard deviation of the mean losses of windows, at least, as a share of their median."""
_SMALLEST_SHARE: Final = 0.001
"""An expected share of labels below counts as this one: the first order of a shop is no fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandLimits:
    """Width of the bands; a measure is outside if it is far from the past and surely so.

    Attributes:
        sigma: Standard deviations.
        ratio: Factor by which the odds of a label may rise or fall.
        rise: Largest rise of the share of lists or items without a feature.
        loss: Factor by which the loss may rise.
        lists: Lists of a window that can become part of the past.
        windows: Windows of the past from which on a measure is judged.
    """

    sigma: float
    ratio: float
    rise: float
    loss: float
    lists: int
    windows: int


class Count(NamedTuple):
    """Sums of a measure over some lists.

    Attributes:
        total: Number of the hits; of a loss the sum over the lists.
        trials: Number of what could be a hit; of a loss the number of lists that have one.
        lists: Lists that were counted.
    """

    total: float
    trials: float
    lists: float

    def __add__(self, other: "Count") -> "Count":  # type: ignore[override]
        """Return the sums over the lists of both."""
        return Count(*(mine + its for mine, its in zip(self, other, strict=True)))

    @property
    def mean(self) -> float:
        """The share of hits, or the mean loss; 0 without a trial."""
        return self.total / self.trials if self.trials else 0.0


class Finding(NamedTuple):
    """A measure of a window and its place in the band.

    Attributes:
        value: Share or mean loss.
        expected: Median of the past; NaN without a past.
        z: Standard deviations between both.
        lists: Lists that were counted.
        since_ts: Start of the lists that were counted, in watermark time.
    """

    value: float
    expected: float
    z: float
    lists: float
    since_ts: int


def on_scale(kind: Kind, count: Count) -> float:
    """Return the value on the scale on which the past is kept."""
    return count.mean if kind == "loss" else math.asin(math.sqrt(min(count.mean, 1.0)))


def find(kind: Kind, count: Count, past: Sequence[float], since_ts: int) -> Finding:
    """Return where a measure lies, by its past on the scale of `on_scale`.

    >>> round(find("label", Count(0, 600, 40), [0.2] * 8, 0).z, 1)
    -9.8
    """
    if not past:
        return Finding(count.mean, math.nan, 0.0, count.lists, since_ts)
    middle = _median(past)
    spread = _MAD_TO_SD * _median([abs(each - middle) for each in past])
    if kind == "loss":
        # Not the spread of the present losses: where they explode it does, too.
        own, expected = _LEAST_SPREAD * middle, middle
    else:
        # All items of a list may lack a feature together, so its lists are the trials.
        own = 0.5 / math.sqrt(max(count.trials if kind == "label" else count.lists, 1.0))
        expected = math.sin(middle) ** 2
    difference = on_scale(kind, count) - middle
    z = difference / max(spread, own) if difference else 0.0
    return Finding(count.mean, expected, z, count.lists, since_ts)


def is_outside(kind: Kind, found: Finding, limits: BandLimits) -> bool:
    """Return whether a measure is outside of its band."""
    if kind == "loss":
        return found.z > limits.sigma and found.value > limits.loss * found.expected
    if kind == "null":
        return found.z > limits.sigma and found.value - found.expected > limits.rise
    odds = _odds(found.value) / _odds(max(found.expected, _SMALLEST_SHARE))
    return abs(found.z) > limits.sigma and not 1 / limits.ratio <= odds <= limits.ratio


def _odds(share: float) -> float:
    return share / (1 - share) if share < 1 else math.inf


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
