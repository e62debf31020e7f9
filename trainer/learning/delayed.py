"""Samples of the head for purchase probabilities, from a stream in which orders come late.

The first revision of a session is learned when its click window closes. Orders that come later are learned from the
correction that brings them, as positives. Their items were learned as negatives before, so without a weight the head
estimates p / (1 + p_late) times the share of all orders that come, not p.

`fnw` takes each click as a negative at once and each order as a positive when it comes. Of these samples a share of
p / (1 + p) is positive. Weighing positives by 1 + p and negatives by (1 + p)(1 - p) makes the loss, in expectation,
that of the final labels; the head's own estimate stands for p. It needs no memory: how late an order comes changes
nothing.

Source: Ktena et al. 2019, Addressing Delayed Feedback for Continuous Training with Neural Networks in CTR prediction
(arXiv 1907.06558), the fake negative weighted loss; docs/training.md, "Late orders".
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Delayed = Literal["none", "fnw"]


class Samples(NamedTuple):
    """Weights of the two terms of each item in the binary cross-entropy; 0 where it has no such term."""

    positive: Tensor
    negative: Tensor


def samples(probability_BL: Tensor, clicked_BL: Tensor, bought_BL: Tensor, first_B: Tensor, method: Delayed) -> Samples:
    """Return the weights of an item as a positive and as a negative sample.

    Args:
        probability_BL: The head's estimate of P(order given click), without gradient.
        clicked_BL: Clicked items that are real.
        bought_BL: Items whose order is new in this revision.
        first_B: Lists that are first revisions; a correction brings new orders and nothing else.
        method: `none` for labels as they are at the end of the click window, with late orders as further positives.

    Shapes: four times (B, L), but first (B,).

    >>> half, yes = torch.tensor([[0.5, 0.5]]), torch.tensor([[True, True]])
    >>> found = samples(half, yes, torch.tensor([[True, False]]), torch.tensor([True]), "fnw")
    >>> [each.tolist() for each in found]
    [[[1.5, 0.0]], [[0.75, 0.75]]]
    """
    bought = clicked_BL & bought_BL
    shown = clicked_BL & first_B.unsqueeze(1)
    zero = torch.zeros_like(probability_BL)
    if method == "none":
        one = torch.ones_like(probability_BL)
        return Samples(torch.where(bought, one, zero), torch.where(shown & ~bought, one, zero))
    more = 1 + probability_BL
    return Samples(torch.where(bought, more, zero), torch.where(shown, more * (1 - probability_BL), zero))
