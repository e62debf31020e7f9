"""Metrics of predictions made before the same sessions were learned, summed since the newest version.

Each list counts once: AUC is the mean over lists that hold both clicked and other items, MRR takes the
first clicked one, ties count half. Both use average ranks, so a constant score gains nothing from the order of rows.

Source: docs/training.md.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.metrics import list_auc, log_loss, ranks, reciprocal_rank
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
        logit, clicked, real = logit[usable], clicked[usable], mask[usable]
        average = ranks(logit, real)
        auc = list_auc(average, clicked, real)
        mrr = reciprocal_rank(average, clicked, real)
        loss = log_loss(logit, clicked, real)
        for name, values in (("auc", auc), ("mrr", mrr), ("log_loss", loss)):
            self.sums[name] += float(values.sum())
        self.sums["lists"] += float(usable.sum())

    def means(self) -> dict[str, float]:
        """Return `auc`, `mrr` and `log_loss`, and the number of `lists` they stand on; nothing without lists."""
        lists = self.sums["lists"]
        if not lists:
            return {"lists": 0.0}
        return {"lists": lists} | {name: self.sums[name] / lists for name in _SUMS[1:]}
