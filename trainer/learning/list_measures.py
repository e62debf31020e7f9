"""Measures of single lists by which the gates compare a version: losses, leads, click sums, and changes of order.

Legend: B lists, n candidates.

Source: docs/rollout.md, "Gates".
"""

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.metrics import Floats, list_auc, log_loss, ranks
from trainer.features import Batch


def losses(score: Floats, batch: Batch, weight: NDArray[np.float32] | None, *, learns_clicks: bool) -> Floats:
    """Return the log loss [B] on the labels that the main loss trains, NaN where a list has none.

    Args:
        score: Scores [B,n].
        batch: The lists with their labels.
        weight: Weights of labels [B,n]; None if all weigh the same.
        learns_clicks: Whether a list without an order trains by its clicks.
    """
    mask = batch.cand_mask
    bought = mask & (batch.conv > 0)
    has_order = np.count_nonzero(bought, axis=1) > 0
    target = np.where(has_order[:, None], bought, mask & (batch.click > 0)) if learns_clicks else bought
    usable = target.any(axis=1) & (mask & ~target).any(axis=1)
    own_weight = None if weight is None else weight.astype(np.float64)
    return np.where(usable, log_loss(_finite(score), target, mask, own_weight), np.nan)


def leads(score: Floats, batch: Batch) -> Floats:
    """Return the AUC of the clicked items by score [B,n] less that by the incoming order [B]; NaN if undefined."""
    mask = batch.cand_mask
    clicked = mask & (batch.click > 0)
    incoming = -batch.cand_rank.astype(np.float64)
    return list_auc(ranks(_finite(score), mask), clicked, mask) - list_auc(ranks(incoming, mask), clicked, mask)


def click_sums(click_logit: Floats, batch: Batch, weight: NDArray[np.float32] | None) -> tuple[Floats, Floats]:
    """Return the predicted and the observed clicks [B] of each list, by the logits [B,n] of the click head.

    Where labels have weights, a clicked item counts by its weight in both sums: then they agree where the loss of the
    clicks is least.
    """
    clicked = batch.cand_mask & (batch.click > 0)
    counts = np.where(batch.cand_mask, 1.0, 0.0)
    if weight is not None:
        counts = np.where(clicked, weight, counts)
    chance = 0.5 * (1.0 + np.tanh(0.5 * _finite(click_logit)))
    return (counts * chance).sum(axis=1), np.where(clicked, counts, 0.0).sum(axis=1)


def order_changes(score: Floats, other: Floats, mask: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the rank correlation [B] of two scores [B,n], and whether the first item by the other one changes.

    Equal scores share their rank; a list whose scores are all equal has correlation 0. The correlation of a list of
    less than two items is NaN.

    Source: Spearman 1904, The Proof and Measurement of Association between Two Things.

    >>> two = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    >>> other = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    >>> found = order_changes(two, other, np.ones((2, 3), dtype=np.bool_))
    >>> [each.tolist() for each in found]
    [[-1.0, 0.0], [True, True]]
    """
    own, its = ranks(_finite(score), mask), ranks(_finite(other), mask)
    count = mask.sum(axis=1)
    middle = (count[:, None] + 1) / 2
    a, b = np.where(mask, own - middle, 0.0), np.where(mask, its - middle, 0.0)
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    correlation = np.where(spread > 0, (a * b).sum(axis=1) / np.where(spread > 0, spread, 1.0), 0.0)
    first = np.where(mask, its, np.inf).argmin(axis=1)
    # A first item that ties with others is not first by its score.
    changes = own[np.arange(len(own)), first] > 1.0
    return np.where(count > 1, correlation, np.nan), changes


def _finite(score: Floats) -> Floats:
    """Return scores without the values that are no numbers: such an item has no place of its own."""
    return np.nan_to_num(score.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
