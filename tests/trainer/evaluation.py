"""Ranking metrics of scored lists, against the labels and on any scores, without torch.

Lists without a positive are excluded where the metric is undefined for them, and counted. Ties are broken by a seeded
hash of (query_id, item_id), so that constant scores rank at random instead of well.

Source: docs/training.md.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRADE_BUY: Final = 3.0
GRADE_CART: Final = 2.0
GRADE_CLICK: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredList:
    """One list with its scores and labels, columns of equal length, padding removed.

    Attributes:
        visit: Unit of the bootstrap: the browsing visit, or the client where known.
        score: Logits: the softmax over the list gives the probabilities.
        positive: True where the item was bought (or clicked, for click metrics).
        grade: Relevance for NDCG: buy 3, cart 2, click 1, else 0; `positive` with grade 3 when None.
        weight: Impressions behind the list, for the weighted GAUC.
    """

    query_id: str
    item_ids: Sequence[str]
    score: Floats
    positive: NDArray[np.bool_]
    visit: str = ""
    grade: Floats | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        n = len(self.item_ids)
        if self.score.shape != (n,) or self.positive.shape != (n,):
            raise ValueError(
                f"query {self.query_id}: {n} items, {self.score.shape} scores, {self.positive.shape} labels"
            )
        if not np.isfinite(self.score).all():
            raise ValueError(f"query {self.query_id}: a score is not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListMetrics:
    """Metrics per list, NaN where undefined: the input of `summarise` and of the bootstrap.

    Attributes:
        log_loss: Cross-entropy of the normalised labels under the list softmax, in nats.
        probability, positive: All items of the lists with a positive, pooled, for the pooled AUC.
    """

    visit: list[str]
    weight: Floats
    auc: Floats
    mrr: Floats
    ndcg_5: Floats
    ndcg_10: Floats
    log_loss: Floats
    probability: Floats
    positive: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Means over lists; None where no list defines the metric.

    Attributes:
        gauc: Mean of per-list AUC, each list weight 1.
        gauc_weighted: The same, weighted by impressions.
        pooled_auc: AUC of within-list softmax probabilities over all items of lists with a positive.
        num_lists, num_without_positive, num_one_class: All lists; those excluded from MRR, NDCG, log loss; those
            excluded from GAUC.
    """

    gauc: float | None
    gauc_weighted: float | None
    mrr: float | None
    ndcg_5: float | None
    ndcg_10: float | None
    pooled_auc: float | None
    log_loss: float | None
    num_lists: int
    num_without_positive: int
    num_one_class: int


def auc(score: Floats, positive: NDArray[np.bool_]) -> float | None:
    """Return the share of (positive, negative) pairs in right order, ties one half; None without both classes.

    >>> auc(np.array([3.0, 2.0, 2.0]), np.array([False, True, False]))
    0.25
    """
    num_positive = int(np.count_nonzero(positive))
    num_negative = positive.size - num_positive
    if num_positive == 0 or num_negative == 0:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    pairs = ranks[inverse][positive].sum() - num_positive * (num_positive + 1) / 2
    return float(pairs / (num_positive * num_negative))


def list_softmax(score: Floats) -> Floats:
    """Return the probabilities of a list: comparable between lists, as raw logits are not.

    >>> list_softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    weights = np.exp(score - score.max())
    return np.asarray(weights / weights.sum())


def tie_keys(query_id: str, item_ids: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return one number per item that orders ties at random, the same in every process."""
    key = seed.to_bytes(8, "little")
    digests = b"".join(
        hashlib.blake2b(f"{query_id}\0{item_id}".encode(), digest_size=8, key=key).digest() for item_id in item_ids
    )
    return np.frombuffer(digests, dtype="<u8")


def order(query_id: str, item_ids: Sequence[str], score: Floats, seed: int = 0) -> NDArray[np.int64]:
    """Return rows from best to worst score, ties broken by `tie_keys`."""
    if np.unique(score).size == score.size:
        return np.argsort(-score)
    return np.lexsort((tie_keys(query_id, item_ids, seed), -score))


def reciprocal_rank(positive_in_order: NDArray[np.bool_]) -> float | None:
    """Return 1 / rank of the first positive, None without one.

    >>> reciprocal_rank(np.array([False, True, True]))
    0.5
    """
    rows = np.flatnonzero(positive_in_order)
    return None if rows.size == 0 else float(1 / (rows[0] + 1))


def ndcg(grade_in_order: Floats, k: int) -> float | None:
    """Return NDCG@k with gain 2^grade - 1, None for a list without any grade.

    >>> round(ndcg(np.array([0.0, 1.0]), 5), 4)
    0.6309
    """
    gains = np.exp2(grade_in_order) - 1
    discounts = 1 / np.log2(np.arange(2, min(k, gains.size) + 2))
    ideal = float(np.sort(gains)[::-1][: discounts.size] @ discounts)
    return None if ideal == 0 else float(gains[: discounts.size] @ discounts) / ideal


def log_loss(score: Floats, positive: NDArray[np.bool_]) -> float | None:
    """Return the cross-entropy of the normalised labels under the list softmax, None without a positive."""
    if not positive.any():
        return None
    shifted = score - score.max()
    log_p = shifted - np.log(np.exp(shifted).sum())
    return float(-log_p[positive].mean())


def list_metrics(lists: Sequence[ScoredList], seed: int = 0) -> ListMetrics:
    """Return the metrics of each list; `seed` is that of the tie rule."""
    columns = np.full((5, len(lists)), np.nan)
    probabilities, positives = [np.empty(0)], [np.empty(0, dtype=np.bool_)]
    for row, scored in enumerate(lists):
        rows = order(scored.query_id, scored.item_ids, scored.score, seed)
        grade = np.where(scored.positive, GRADE_BUY, 0.0) if scored.grade is None else scored.grade
        figures = (
            auc(scored.score, scored.positive),
            reciprocal_rank(scored.positive[rows]),
            ndcg(grade[rows], 5),
            ndcg(grade[rows], 10),
            log_loss(scored.score, scored.positive),
        )
        columns[:, row] = [np.nan if figure is None else figure for figure in figures]
        if scored.positive.any():
            probabilities.append(list_softmax(scored.score))
            positives.append(scored.positive)
    return ListMetrics(
        visit=[scored.visit or scored.query_id for scored in lists],
        weight=np.array([scored.weight for scored in lists], dtype=np.float64),
        auc=columns[0],
        mrr=columns[1],
        ndcg_5=columns[2],
        ndcg_10=columns[3],
        log_loss=columns[4],
        probability=np.concatenate(probabilities),
        positive=np.concatenate(positives),
    )


def summarise(metrics: ListMetrics) -> Report:
    """Return the means over the lists that define each metric, and how many lists do not."""
    return Report(
        gauc=_mean(metrics.auc),
        gauc_weighted=_mean(metrics.auc, metrics.weight),
        mrr=_mean(metrics.mrr),
        ndcg_5=_mean(metrics.ndcg_5),
        ndcg_10=_mean(metrics.ndcg_10),
        pooled_auc=auc(metrics.probability, metrics.positive),
        log_loss=_mean(metrics.log_loss),
        num_lists=metrics.auc.size,
        num_without_positive=int(np.isnan(metrics.mrr).sum()),
        num_one_class=int(np.isnan(metrics.auc).sum()),
    )


def evaluate(lists: Sequence[ScoredList], seed: int = 0) -> Report:
    """Return the report of scored lists."""
    return summarise(list_metrics(lists, seed))


def _mean(values: Floats, weight: Floats | None = None) -> float | None:
    defined = ~np.isnan(values)
    weights = defined.astype(np.float64) if weight is None else np.where(defined, weight, 0.0)
    total = float(weights.sum())
    return None if total == 0 else float(np.where(defined, values, 0.0) @ weights) / total


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
    resamples: int = 2_000,
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
    sums = np.bincount(unit, weights=(new - old)[defined])
    counts = np.bincount(unit).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for draw in range(resamples):
        rows = rng.integers(0, names.size, size=names.size)
        means[draw] = sums[rows].sum() / counts[rows].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        difference=float(sums.sum() / counts.sum()), low=float(low), high=float(high), num_visits=names.size
    )


def observed_value(lists: Sequence[ScoredList], money: Sequence[Floats], k: int) -> float:
    """Return the mean money per list that was bought at rank <= k of the scores, gross or net as `money` is.

    Raises:
        ValueError: If there is no list, or not one column of money per list.
    """
    if not lists or len(lists) != len(money):
        raise ValueError(f"expected one column of money per list, got {len(lists)} lists, {len(money)} columns")
    tops = [order(scored.query_id, scored.item_ids, scored.score)[:k] for scored in lists]
    return float(sum(column[rows].sum() for column, rows in zip(money, tops, strict=True))) / len(lists)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Match of probabilities and frequencies: sum(pred) / sum(label), None without a positive, and the ECE."""

    ratio: float | None
    ece: float
    num_items: int


def calibration(probability: Floats, positive: NDArray[np.bool_], bins: int = 15) -> Calibration:
    """Return the calibration of a head that is used as a probability, with bins of equal mass.

    Raises:
        ValueError: If there is no item, or the columns differ in length.
    """
    if probability.shape != positive.shape or probability.size == 0:
        raise ValueError(f"expected equal columns that are not empty, got {probability.shape}, {positive.shape}")
    rows = np.argsort(probability, kind="stable")
    parts = np.array_split(rows, min(bins, rows.size))
    gaps = [abs(probability[part].mean() - positive[part].mean()) * part.size for part in parts]
    total = int(np.count_nonzero(positive))
    return Calibration(
        ratio=None if total == 0 else float(probability.sum() / total),
        ece=float(sum(gaps) / rows.size),
        num_items=rows.size,
    )
