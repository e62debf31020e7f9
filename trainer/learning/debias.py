"""Weights of labels by inverse examination, and how many equal weights they are worth.

A label needs a shopper who looks, so labels of far positions are rarer than the items there deserve. Weighing each
label by the inverse of the examination of its position makes the loss, in expectation, that of a shop whose shoppers
look at every position. Large weights are clipped: that trades a little bias for a lot of variance.

Source: Joachims, Swaminathan and Schnabel 2017, Unbiased Learning-to-Rank with Biased Feedback, equation 4;
docs/training.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.configs import LearningSettings
from trainer.evaluation.metrics import Floats, Mask
from trainer.features import Batch


def label_weights(position: NDArray[np.int32], learning: LearningSettings) -> NDArray[np.float32] | None:
    """Return the weight of a label at each displayed position; None where all weigh the same.

    Positions behind the curve have the examination of its last position; an unknown position, 0, has weight 1.

    >>> learning = LearningSettings(debias="curve", examination=(1.0, 0.5, 0.05), max_weight=10.0)
    >>> label_weights(np.array([0, 1, 2, 3, 9]), learning).tolist()
    [1.0, 1.0, 2.0, 10.0, 10.0]
    """
    if learning.debias == "none" or not learning.examination:
        return None
    curve = np.array(learning.examination)
    weight = np.minimum(curve[0] / curve, learning.max_weight)
    at = weight[np.clip(position, 1, weight.size) - 1]
    return np.where(position > 0, at, 1.0).astype(np.float32)


def is_label(batch: Batch) -> Mask:
    """Return [B,n] whether a candidate has a label that the batch trains: clicked or bought."""
    clicked = (batch.click > 0) & (batch.click_weight > 0)[:, None]
    return np.asarray(batch.cand_mask & (clicked | (batch.conv > 0)))


@dataclass(slots=True)
class EffectiveLabels:
    """The sums that tell how many labels of equal weight the weighted ones are worth.

    Attributes:
        num: Labels.
        total, squares: Sums of their weights and of the squares.
    """

    num: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, weight: Floats | NDArray[np.float32]) -> None:
        """Add labels by their weights."""
        own = weight.astype(np.float64)
        self.num += own.size
        self.total += float(own.sum())
        self.squares += float((own**2).sum())

    @property
    def effective(self) -> float:
        """Return (sum w)^2 / sum w^2, at most the number of labels.

        >>> labels = EffectiveLabels()
        >>> labels.add(np.array([1.0, 1.0, 4.0]))
        >>> labels.effective
        2.0
        """
        return self.total**2 / self.squares if self.squares else 0.0
