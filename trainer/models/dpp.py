"""DPP: the greedy order by the determinant of relevance and similarity.

Source: Chen et al., Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation Diversity,
NeurIPS 2018, arXiv 1709.05135. The kernel is L = diag(q) S diag(q) with q_i = exp(alpha rel_i) and
alpha = theta / (2 (1 - theta)).
"""

import torch
from torch import Tensor

from trainer.configs.diversity import DppConfig
from trainer.models.diversity import Diversity, Gain

_SPENT = 1e-9
"""Variance below it is rounding: the item lies in the span of those above it."""
_LAST = 1e9


class Determinant(Gain):
    """log d_i^2, what log det L grows by with item i; items in the span of the chosen come last, by relevance.

    d_i^2 = q_i^2 s_i^2, and only s_i^2, the variance that is left in S, changes: s_i^2 falls by e_i^2 with
    e_i = (S_ji - c_j . c_i) / s_j, and e_i is appended to c_i (algorithm 1 of the paper).
    """

    def __init__(self, relevance: Tensor, theta: float) -> None:
        self._log_quality = theta / (1 - theta) * relevance
        self._relevance = relevance
        self._variance = torch.ones_like(relevance)
        self._factor = relevance.new_zeros(*relevance.shape, 0)

    def values(self) -> Tensor:
        """Return the growth of the log determinant by each item."""
        log_variance = torch.log(self._variance.clamp_min(_SPENT))
        return torch.where(self._variance > _SPENT, self._log_quality + log_variance, self._relevance - _LAST)

    def choose(self, item: Tensor, similarity: Tensor) -> None:
        """Lower the variances by what the taken item explains."""
        lists = torch.arange(len(item), device=item.device)
        own = self._factor[lists, item]
        shared = torch.matmul(self._factor, own.unsqueeze(-1)).squeeze(-1)
        scale = self._variance[lists, item].clamp_min(_SPENT).sqrt().unsqueeze(-1)
        # Rounding alone is left of an item that is spent.
        is_spent = self._variance[lists, item] <= _SPENT
        row = torch.where(is_spent[:, None], 0.0, (similarity[lists, item] - shared) / scale)
        self._factor = torch.cat([self._factor, row.unsqueeze(-1)], dim=-1)
        self._variance = self._variance - row**2


class Dpp(Diversity):
    """The greedy MAP order of a DPP on the learned relevance."""

    def __init__(self, config: DppConfig) -> None:
        super().__init__(config)
        self._theta = config.theta

    def gain(self, relevance: Tensor, mask: Tensor) -> Gain:
        """Return the growth of the log determinant."""
        return Determinant(torch.where(mask, relevance, 0.0), self._theta)
