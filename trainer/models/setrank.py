"""SetRank: attention blocks over the set of items, in which no block knows an order.

Source: Pang et al., SetRank: Learning a Permutation-Invariant Ranking Model, SIGIR 2020, arXiv 1912.05891. The list
softmax is its attention loss for labels of 0 and 1 that are shared among the positive items. Inputs are those of the
other models.
"""

import math

import torch
from torch import Tensor, nn

from trainer.configs.setrank import SetRankConfig
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Drop, Dropout, dropper, item_scores, masked_softmax, zero_unless
from trainer.models.inputs import InputLayer, Interest, VectorReader, base_features, base_width


class AttentionBlock(nn.Module):
    """MAB(X, Y) = LN(H + FF(H)) with H = LN(X + Multihead(X, Y, Y)): rows of X attend to rows of Y.

    Shapes: values (B, n, w), others (B, m, w), mask (B, m) of the others; result (B, n, w).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, 4 * width)
        self.ffn_out = nn.Linear(4 * width, width)
        self.norm_ffn = nn.LayerNorm(width)
        self._heads = heads

    def forward(self, values: Tensor, others: Tensor, mask: Tensor, drop: Drop) -> Tensor:
        """Return the block's output."""
        hidden = self.norm_attention(values + drop(self.out(self._mixed(values, others, mask))))
        return torch.as_tensor(self.norm_ffn(hidden + drop(self.ffn_out(torch.relu(self.ffn_in(hidden))))))

    def _mixed(self, values: Tensor, others: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self._split(part) for part in (self.query(values), self.key(others), self.value(others)))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
        weights = masked_softmax(scores, mask[:, None, None, :].expand_as(scores))
        return torch.matmul(weights.to(value.dtype), value).transpose(1, 2).flatten(2)

    def _split(self, values: Tensor) -> Tensor:
        lists, rows, width = values.shape
        return values.view(lists, rows, self._heads, width // self._heads).transpose(1, 2)


class InducingPoints(nn.Module):
    """The trained rows I through which the items of an induced block see each other.

    Shapes: result (B, m, w) for B lists.
    """

    def __init__(self, points: int, width: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.empty(points, width))

    def forward(self, num_lists: int) -> Tensor:
        """Return the points of each list."""
        return self.points.expand(num_lists, -1, -1)


class SetBlock(nn.Module):
    """MSAB(X) = MAB(X, X), or with inducing points IMSAB(X) = MAB(X, MAB(I, X))."""

    def __init__(self, config: SetRankConfig) -> None:
        super().__init__()
        is_induced = config.block == "imsab"
        self.induced = InducingPoints(config.points, config.width) if is_induced else None
        self.to_points = AttentionBlock(config.width, config.heads) if is_induced else None
        self.to_items = AttentionBlock(config.width, config.heads)

    def forward(self, values: Tensor, mask: Tensor, drop: Drop) -> Tensor:
        """Return the encoded candidates [B,n,w], padded rows 0."""
        others, others_mask = values, mask
        if self.induced is not None and self.to_points is not None:
            points = self.induced(values.shape[0])
            others = self.to_points(points, values, mask, drop)
            others_mask = mask.new_ones(points.shape[:2])
        return zero_unless(mask, self.to_items(values, others, others_mask, drop))


class SetRank(InputLayer):
    """SetRank: a linear map of each item, the blocks, and one score per item."""

    def __init__(self, config: SetRankConfig) -> None:
        super().__init__(config)
        self.vectors = nn.ModuleDict({modality: VectorReader(config, modality) for modality in config.modalities})
        self.attention = Interest(config, 3 * config.d)
        width_in = base_width(config, interest=True, modalities=config.modalities) + config.context
        self.input = nn.Linear(width_in, config.width)
        self.rank_input = nn.Linear(config.d, config.width, bias=False) if config.uses_rank else None
        self.blocks = nn.ModuleList(SetBlock(config) for _ in range(config.layers))
        self.logit = nn.Linear(config.width, 1)
        self.pcvr = nn.Linear(config.width, 1) if config.pcvr else None

    def forward(self, batch: TensorBatch, dropout: Dropout | None = None) -> Outputs:
        """Score a batch, with dropout if it is given."""
        drop = dropper(dropout)
        inputs = self.read(batch)
        vectors = [reader(batch).cand for reader in self.vectors.values()]
        context = inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)
        values = self.input(torch.cat([base_features(inputs, self.attention.of_ids(inputs), vectors), context], dim=-1))
        if self.rank_input is not None:
            values = values + self.rank_input(inputs.rank)
        values = zero_unless(inputs.mask, values)
        for block in self.blocks:
            values = block(values, inputs.mask, drop)
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(values), inputs.mask)
        return Outputs(item_scores(self.logit(values), inputs.mask), None, pcvr, {})
