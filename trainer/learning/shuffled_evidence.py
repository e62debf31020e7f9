"""Evidence that a lineage's scores are better than the incoming order, from lists that were shown in random order.

A list is scored just before it is learned. In a shuffled list each item could stand in each place, so clicks favour
neither ranker; where the incoming order was shown, they favour that. The measure of a list is the AUC of the clicked
items by score, less the AUC by the incoming order.

Source: docs/training.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.metrics import Floats, list_auc, ranks
from trainer.features import Batch


@dataclass(slots=True)
class ShuffledEvidence:
    """Sums over clicked lists, of which older ones count less.

    Attributes:
        lists: Number of lists, those before each ageing halved.
        lead: Sum of the differences in AUC.
        was_ahead: Whether enough lists said at the last ageing that the scores are better.
    """

    lists: float = 0.0
    lead: float = 0.0
    was_ahead: bool = False

    def update(self, logit: Floats, batch: Batch, rows: NDArray[np.bool_]) -> None:
        """Add the lists of a batch in `rows` [B], by their scores [B,n]."""
        mask = batch.cand_mask[rows]
        positive = mask & (batch.click[rows] > 0)
        usable = positive.any(axis=1) & (mask & ~positive).any(axis=1)
        if not usable.any():
            return
        mask, positive = mask[usable], positive[usable]
        own = list_auc(ranks(logit[rows][usable], mask), positive, mask)
        incoming = list_auc(ranks(-batch.cand_rank[rows][usable].astype(np.float64), mask), positive, mask)
        self.lists += float(usable.sum())
        self.lead += float((own - incoming).sum())

    def age(self, num_lists: int) -> None:
        """Note whether `num_lists` lists put the scores ahead, and let what was seen so far count half from now on.

        What was seen rates weights that have learned since.
        """
        self.was_ahead = self.is_ahead(num_lists)
        self.lists /= 2
        self.lead /= 2

    def is_ahead(self, num_lists: int) -> bool:
        """Return whether at least so many lists say, in the mean, that the scores are better."""
        return self.lists >= num_lists and self.lead > 0

    def means(self) -> dict[str, float]:
        """Return the number of lists and the mean lead, for metrics and manifests; nothing before the first list."""
        return {"shuffled_lists": self.lists, "shuffled_lead": self.lead / self.lists} if self.lists else {}

    def sums(self) -> dict[str, float]:
        """Return the sums, for a checkpoint."""
        return {"lists": self.lists, "lead": self.lead, "was_ahead": float(self.was_ahead)}

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> "ShuffledEvidence":
        """Return the evidence with these sums."""
        return cls(lists=sums.get("lists", 0.0), lead=sums.get("lead", 0.0), was_ahead=sums.get("was_ahead", 0.0) > 0)
