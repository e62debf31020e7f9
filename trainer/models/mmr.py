"""MMR, maximal marginal relevance: the next item is relevant and unlike those above it.

Source: Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing
Summaries, SIGIR 1998.
"""

import torch
from torch import Tensor

from trainer.configs.diversity import MmrConfig
from trainer.models.diversity import Diversity, Gain


class MarginalRelevance(Gain):
    """lambda rel_i - (1 - lambda) max over the chosen j of sim(i, j), with relevance scaled to 0 to 1 in its list."""

    def __init__(self, relevance: Tensor, mask: Tensor, tradeoff: float) -> None:
        low = torch.where(mask, relevance, torch.inf).amin(dim=1, keepdim=True)
        high = torch.where(mask, relevance, -torch.inf).amax(dim=1, keepdim=True)
        self._relevance = torch.where(mask, (relevance - low) / torch.where(high > low, high - low, 1.0), 0.0)
        self._tradeoff = tradeoff
        self._nearest: Tensor | None = None

    def values(self) -> Tensor:
        """Return the marginal relevance of each item."""
        gain = self._tradeoff * self._relevance
        return gain if self._nearest is None else gain - (1 - self._tradeoff) * self._nearest

    def choose(self, item: Tensor, similarity: Tensor) -> None:
        """Compare all items with the one that was taken."""
        near = similarity[torch.arange(len(item), device=item.device), item]
        self._nearest = near if self._nearest is None else torch.maximum(self._nearest, near)


class Mmr(Diversity):
    """MMR on the learned relevance."""

    def __init__(self, config: MmrConfig) -> None:
        super().__init__(config)
        self._tradeoff = config.tradeoff

    def gain(self, relevance: Tensor, mask: Tensor) -> Gain:
        """Return the marginal relevance."""
        return MarginalRelevance(relevance, mask, self._tradeoff)
