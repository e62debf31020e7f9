"""Metrics of predictions made before the same sessions were learned, summed since the newest version.

Each list counts once: AUC is the mean over lists that hold both clicked and other items, MRR takes the
first clicked one, ties count half. Both use average ranks, so a constant score gains nothing from the order of rows.

Source: docs/training.md.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trainer.features import Batch
from trainer.models import Outputs

_SUMS = ("lists", "auc", "mrr", "log_loss")


class Prequential:
    """Running sums over lists with at least one clicked and one other item; first revisions only."""

    def __init__(self, sums: Mapping[str, float] | None = None) -> None:
        self.sums = {name: float((sums or {}).get(name, 0.0)) for name in _SUMS}

    def update(self, outputs: Outputs, batch: Batch, fresh: NDArray[np.bool_]) -> None:
        """Add the lists of a batch that are `fresh` [B]."""
        logit = outputs.logit.detach().float().cpu().numpy().astype(np.float64)
        mask = batch.cand_mask & fresh[:, None]
        clicked = mask & (batch.click > 0)
        other = mask & ~clicked
        usable = clicked.any(axis=1) & other.any(axis=1)
        if not usable.any():
            return
        logit, clicked, other = logit[usable], clicked[usable], other[usable]
        above = np.where(logit[:, :, None] > logit[:, None, :], 1.0, 0.0)
        above += np.where(logit[:, :, None] == logit[:, None, :], 0.5, 0.0)
        pairs = clicked[:, :, None] & other[:, None, :]
        auc = (above * pairs).sum(axis=(1, 2)) / pairs.sum(axis=(1, 2))
        real = clicked | other
        # Rank 1 + items above + half of the ties, oneself (a half) taken off.
        rank = 0.5 + (np.swapaxes(above, 1, 2) * real[:, None, :]).sum(axis=2)
        first = np.where(clicked, rank, np.inf).min(axis=1)
        shifted = np.where(real, logit - np.where(real, logit, -np.inf).max(axis=1, keepdims=True), -np.inf)
        log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        target = clicked / clicked.sum(axis=1, keepdims=True)
        log_loss = -(target * np.where(real, shifted - log_sum, 0.0)).sum(axis=1)
        for name, values in (("auc", auc), ("mrr", 1 / first), ("log_loss", log_loss)):
            self.sums[name] += float(values.sum())
        self.sums["lists"] += float(usable.sum())

    def means(self) -> dict[str, float]:
        """Return `auc`, `mrr` and `log_loss`, and the number of `lists` they stand on; nothing without lists."""
        lists = self.sums["lists"]
        if not lists:
            return {"lists": 0.0}
        return {"lists": lists} | {name: self.sums[name] / lists for name in _SUMS[1:]}
