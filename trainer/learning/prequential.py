"""Metrics of predictions made before the same sessions were learned, summed since the newest version.

Four series of scores: `arrival`, the present weights just before they learn a list; `served`, the scores by which the
list was shown, of lists that a version of the lineage ranked; `former`, the version before the newest one, and
`incoming`, the incoming order, both on the lists of `served`. Each is compared with clicks and with orders. A list
counts once: AUC is the mean over lists that hold both positive and other items, MRR takes the first positive one, ties
count half. Both use average ranks, so a constant score gains nothing from the order of rows.

Labels depend on the order in which a list was shown: a series says more beside `incoming` than alone.

Source: docs/training.md.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.metrics import Floats, list_auc, log_loss, ranks, reciprocal_rank
from trainer.features import Batch, Examples
from trainer.models import Outputs


class Prequential:
    """Running sums over lists with at least one positive and one other item; first revisions only.

    Attributes:
        sums: `SERIES.LABEL.METRIC` to the sum of a metric; METRIC is `lists` for the number of lists.
    """

    def __init__(self, sums: Mapping[str, float] | None = None) -> None:
        self.sums: dict[str, float] = dict(sums or {})

    def update(
        self,
        outputs: Outputs,
        batch: Batch,
        fresh: NDArray[np.bool_],
        served: Floats | None = None,
        former: Floats | None = None,
    ) -> None:
        """Add the lists of a batch that are `fresh` [B].

        Args:
            outputs: Scores of the present weights.
            batch: Lists with their labels.
            fresh: Which of them are first revisions.
            served: Scores [B,n] when shown, NaN if none.
            former: Scores [B,n] of the version before the newest one; None without such a version.
        """
        if not fresh.any():
            return
        logit = outputs.logit.detach().float().cpu().numpy().astype(np.float64)
        self._add("arrival", logit, batch, fresh)
        if served is not None:
            own = fresh & ~np.isnan(served).all(axis=1)
            self._add("served", served, batch, own)
            if former is not None:
                self._add("former", former, batch, own)
            self._add("incoming", -batch.cand_rank.astype(np.float64), batch, own)

    def _add(self, series: str, score: Floats, batch: Batch, rows: NDArray[np.bool_]) -> None:
        if not rows.any():
            return
        mask = batch.cand_mask[rows]
        average = ranks(score[rows], mask)
        for label, values in (("click", batch.click), ("order", batch.conv)):
            positive = mask & (values[rows] > 0)
            usable = positive.any(axis=1) & (mask & ~positive).any(axis=1)
            if not usable.any():
                continue
            own, hits, real = average[usable], positive[usable], mask[usable]
            found = {"auc": list_auc(own, hits, real), "mrr": reciprocal_rank(own, hits, real)}
            if series != "incoming":
                found["log_loss"] = log_loss(score[rows][usable], hits, real)
            self._sum(f"{series}.{label}.lists", float(usable.sum()))
            for name, per_list in found.items():
                self._sum(f"{series}.{label}.{name}", float(per_list.sum()))

    def _sum(self, key: str, value: float) -> None:
        self.sums[key] = self.sums.get(key, 0.0) + value

    def means(self) -> dict[str, float]:
        """Return `SERIES.LABEL.METRIC` to its mean, and `SERIES.LABEL.lists` to the lists behind it; sorted by key."""
        means: dict[str, float] = {}
        for key in sorted(self.sums):
            group, _, name = key.rpartition(".")
            means[key] = self.sums[key] if name == "lists" else self.sums[key] / self.sums[f"{group}.lists"]
        return means


def served_scores(examples: Examples, shape: tuple[int, int], lineage: str | None) -> Floats:
    """Return the scores [B,n] by which a version of the lineage showed each list, else NaN."""
    scores = np.full(shape, np.nan)
    for row, (score, by) in enumerate(zip(examples.served_score, examples.served_by, strict=True)):
        if score is not None and by == lineage:
            scores[row, : len(score)] = score
    return scores
