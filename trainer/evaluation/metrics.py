"""Ranking metrics of padded lists, one value per list, and the AUC of pooled items.

A value is NaN where a list does not define the metric. Padding, even NaN in it, changes nothing. Ties share their
average rank, or are ordered by keys that are unrelated to the order of rows, so constant scores rank at random.

Legend: B lists, n items.

Source: docs/training.md.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Keys = NDArray[np.uint64]


def tie_keys(query_id: str, item_ids: Sequence[str], seed: int) -> Keys:
    """Return one number per item that orders ties at random, the same in every process.

    Copies of one item in a list get numbers of their own: equal numbers would leave the order to the rows.
    """
    key = seed.to_bytes(8, "little")
    copies: Counter[str] = Counter()
    digests = []
    for item_id in item_ids:
        copy = f"\0{copies[item_id]}" if copies[item_id] else ""
        copies[item_id] += 1
        text = f"{query_id}\0{item_id}{copy}"
        digests.append(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest())
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def ranks(score_BL: Floats, mask_BL: Mask, tie_BL: Keys | None = None) -> Floats:
    """Return the rank of each item in its list, 1 = highest score; 0 at padding.

    Without tie keys equal scores share their average rank.

    >>> ranks(np.array([[1.0, 3.0, 1.0]]), np.ones((1, 3), dtype=np.bool_)).tolist()
    [[2.5, 1.0, 2.5]]
    """
    score = np.where(mask_BL, score_BL, -np.inf)
    row, other = score[:, :, None], score[:, None, :]
    real, tied = mask_BL[:, None, :], other == row
    rank = 1.0 + np.count_nonzero((other > row) & real, axis=2)
    if tie_BL is None:
        # Of the average rank, an item's tie with itself is taken off.
        rank += np.count_nonzero(tied & real, axis=2) / 2 - 0.5
    else:
        rank += np.count_nonzero(tied & (tie_BL[:, None, :] < tie_BL[:, :, None]) & real, axis=2)
    return np.where(mask_BL, rank, 0.0)


def list_auc(average_rank_BL: Floats, positive_BL: Mask, mask_BL: Mask) -> Floats:
    """Return the share of (positive, other) pairs in right order in each list, ties one half.

    Args:
        average_rank_BL: `ranks` without tie keys.
        positive_BL: Positive items.
        mask_BL: Real items.
    """
    positive = positive_BL & mask_BL
    num_positive, num_items = positive.sum(axis=1), mask_BL.sum(axis=1)
    num_pairs = num_positive * (num_items - num_positive)
    below = np.where(positive, num_items[:, None] - average_rank_BL, 0.0).sum(axis=1)
    pairs = below - num_positive * (num_positive - 1) / 2
    return np.where(num_pairs > 0, pairs / np.maximum(num_pairs, 1), np.nan)


def reciprocal_rank(rank_BL: Floats, positive_BL: Mask, mask_BL: Mask) -> Floats:
    """Return 1 / rank of the first positive item of each list."""
    first = np.where(positive_BL & mask_BL, rank_BL, np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(first), 1 / first, np.nan)


def ndcg(rank_BL: Floats, grade_BL: Floats, mask_BL: Mask, k: int) -> Floats:
    """Return NDCG@k with gain 2^grade - 1 and ranks without ties; a grade below 0 counts as 0.

    >>> rank, mask = np.array([[2.0, 1.0]]), np.ones((1, 2), dtype=np.bool_)
    >>> ndcg(rank, np.array([[1.0, 0.0]]), mask, 5).round(4).tolist()
    [0.6309]
    """
    gain = np.where(mask_BL, np.exp2(np.maximum(grade_BL, 0.0)) - 1, 0.0)
    shown = mask_BL & (rank_BL <= k)
    found = np.where(shown, gain / np.log2(np.where(shown, rank_BL, 1.0) + 1), 0.0).sum(axis=1)
    best = -np.sort(-gain, axis=1)[:, :k]
    ideal = (best / np.log2(np.arange(2, best.shape[1] + 2))).sum(axis=1)
    return np.where(ideal > 0, found / np.where(ideal > 0, ideal, 1.0), np.nan)


def log_probabilities(score_BL: Floats, mask_BL: Mask) -> Floats:
    """Return the logarithm of the softmax over each list, -inf at padding: comparable between lists, unlike logits."""
    score = np.where(mask_BL, score_BL, -np.inf)
    top = score.max(axis=1, keepdims=True, initial=-np.inf)
    shifted = score - np.where(np.isfinite(top), top, 0.0)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.where(total > 0, total, 1.0)))


def log_loss(score_BL: Floats, positive_BL: Mask, mask_BL: Mask, weight_BL: Floats | None = None) -> Floats:
    """Return the cross-entropy of the normalised labels under the softmax of each list, in nats.

    `weight_BL` weighs the terms of the labels after they were normalised, as the list softmax of training does.
    """
    positive = positive_BL & mask_BL
    count = positive.sum(axis=1)
    terms = (
        log_probabilities(score_BL, mask_BL) if weight_BL is None else weight_BL * log_probabilities(score_BL, mask_BL)
    )
    summed = np.where(positive, terms, 0.0).sum(axis=1)
    return np.where(count > 0, -summed / np.maximum(count, 1), np.nan)


def value_at(rank_BL: Floats, value_BL: Floats, mask_BL: Mask, k: int) -> Floats:
    """Return the value on the first k ranks of each list: of orders their number, of money the GMV."""
    return np.asarray(np.where(mask_BL & (rank_BL <= k), value_BL, 0.0).sum(axis=1))


def pooled_auc(score: Floats, positive: Mask) -> float | None:
    """Return the share of (positive, other) pairs of all items in right order, ties one half; None without both.

    >>> pooled_auc(np.array([3.0, 2.0, 2.0]), np.array([False, True, False]))
    0.25
    """
    num_positive = int(np.count_nonzero(positive))
    num_negative = positive.size - num_positive
    if num_positive == 0 or num_negative == 0:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    average = np.cumsum(counts) - (counts - 1) / 2
    pairs = average[inverse][positive].sum() - num_positive * (num_positive + 1) / 2
    return float(pairs / (num_positive * num_negative))
