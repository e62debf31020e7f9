"""Layers that all models share, built from torch's own.

Legend: B lists, n candidates, L behaviours, w width, H heads, h hidden width.

Source: docs/training.md.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Drop = Callable[[Tensor], Tensor]

MASKED = -1e9
"""Score of masked entries: finite, so that a row with nothing real stays finite."""


class Dropout(NamedTuple):
    """Dropout of one step: the share that is dropped, and the generator that draws it, on the device of the batch."""

    rate: float
    generator: torch.Generator


def keep(values: Tensor) -> Tensor:
    """Return the values: the forward pass without dropout."""
    return values


def dropper(dropout: Dropout | None) -> Drop:
    """Return inverted dropout, or `keep` without any.

    `torch.nn.Dropout` draws from the global generator, which would make training depend on what else draws from it.
    """
    if dropout is None or dropout.rate == 0:
        return keep

    def drop(values: Tensor) -> Tensor:
        kept = torch.rand(values.shape, generator=dropout.generator, device=values.device) >= dropout.rate
        return values * kept / (1 - dropout.rate)

    return drop


class Embedding(nn.Embedding):
    """A table of vectors whose values are not drawn when the module is built: `ModelSpec.init` draws them.

    Drawing from a normal distribution without memory, as modules are built here, makes torch import its compiler, which
    takes seconds and memory in each process that scores.
    """

    def reset_parameters(self) -> None:
        """Keep the values as they are."""


def zero_unless(mask: Tensor, values: Tensor) -> Tensor:
    """Return `values` with rows outside of the mask set to 0, even where they held NaN.

    Shapes: mask (...), values (..., k).
    """
    return torch.where(mask.unsqueeze(-1), values, 0.0)


def wide(values: Tensor) -> Tensor:
    """Return the values in at least float32: sums and exponentials under autocast need its range."""
    return values if values.dtype == torch.float64 else values.float()


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over the last axis among real entries; a row without any gives zeros."""
    # In float16 the score of masked entries would be minus infinity, and a row with nothing real NaN.
    weights = torch.softmax(torch.where(mask, wide(scores), MASKED), dim=-1)
    return torch.where(mask, weights, 0.0)


def item_scores(column: Tensor, mask: Tensor) -> Tensor:
    """Return [B,n] of [B,n,1], padded candidates 0."""
    return torch.where(mask, column.squeeze(-1), 0.0)


class EncoderLayer(nn.Module):
    """Self-attention over the candidates and a feed-forward network, each with residual and layer norm.

    Source: ARMMT (arXiv 2408.05751), equation 1; Vaswani et al. 2017. `nn.MultiheadAttention` has either a bias in all
    of its projections or in none; equation 1 has none in Q, K and V.
    """

    def __init__(self, width: int, heads: int, *, post_norm: bool) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, 4 * width)
        self.ffn_out = nn.Linear(4 * width, width)
        self.heads = heads
        self.is_post_norm = post_norm

    def forward(self, values: Tensor, bias: Tensor, drop: Drop) -> Tensor:
        """Return the layer's output; `bias` is added to the attention scores."""
        if self.is_post_norm:
            values = self.norm_attention(values + self._attend(values, bias, drop))
            return torch.as_tensor(self.norm_ffn(values + self.feed(values, drop)))
        values = values + self._attend(self.norm_attention(values), bias, drop)
        return values + self.feed(self.norm_ffn(values), drop)

    def _attend(self, values: Tensor, bias: Tensor, drop: Drop) -> Tensor:
        lists, n, width = values.shape
        head_width = width // self.heads
        qkv = self.qkv(values).view(lists, n, 3, self.heads, head_width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(query * (1 / math.sqrt(head_width)), key.transpose(-1, -2)) + bias
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2).reshape(lists, n, width)
        return drop(self.out(mixed))

    def feed(self, values: Tensor, drop: Drop) -> Tensor:
        """Return the output of the feed-forward network."""
        return drop(self.ffn_out(torch.relu(self.ffn_in(values))))


class Encoder(nn.Module):
    """Encoder layers over the candidates; pre-LN ends with one more layer norm.

    Shapes: values (B, n, w), mask (B, n); result (B, n, w).
    Guarantees: padded rows come out as 0 and no real row depends on them.
    """

    def __init__(self, width: int, layers: int, heads: int, *, post_norm: bool = False) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(EncoderLayer(width, heads, post_norm=post_norm) for _ in range(layers))
        self.norm = None if post_norm else nn.LayerNorm(width)

    def forward(self, values: Tensor, mask: Tensor, drop: Drop = keep) -> Tensor:
        """Return the encoded candidates."""
        bias = torch.where(mask, 0.0, MASKED)[:, None, None, :]
        for layer in self.layers:
            values = zero_unless(mask, layer(values, bias, drop))
        return values if self.norm is None else zero_unless(mask, self.norm(values))


class Slopes(nn.PReLU):
    """PReLU with one slope per channel, whose channels are the last axis; `nn.PReLU` takes the second axis."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the values, negative ones times the slope of their channel."""
        return super().forward(values.flatten(0, -2)).reshape(values.shape)


class TargetAttention(nn.Module):
    """Weights of behaviours by MLP([q; k; q-k; q*k; side; client]), and the weighted sum of their values.

    The first layer is factored: the parts in q alone, k alone and the client run once per row, only the product per
    pair. `raw` leaves DIN's weights un-normalised.

    Shapes: query (B, n, k), key (B, L, k), value (B, L, v), side (B, L, s), client (B, u), mask (B, L); result
    (B, n, v).
    Guarantees: without any behaviour the result is 0.
    Source: Zhou et al. 2018 (DIN), section 4.3.
    """

    def __init__(self, *, width: int, side: int, client: int, hidden: tuple[int, int], raw: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(4 * width + side + client, hidden[0])
        self.first_slope = Slopes(hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.second_slope = Slopes(hidden[1])
        self.score = nn.Linear(hidden[1], 1)
        self._parts = [width, width, width, width, side, client]
        self._raw = raw

    def forward(
        self, *, query: Tensor, key: Tensor, value: Tensor, side: Tensor, client: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the weighted sums."""
        of_query, of_key, of_difference, of_product, of_side, of_client = torch.split(
            self.first.weight, self._parts, dim=1
        )
        per_list = functional.linear(client, of_client, self.first.bias)
        per_query = functional.linear(query, of_query + of_difference) + per_list[:, None, :]
        per_key = functional.linear(key, of_key - of_difference) + functional.linear(side, of_side)
        products = query[:, :, None, :] * key[:, None, :, :]
        hidden = functional.linear(products, of_product) + per_query[:, :, None, :] + per_key[:, None, :, :]
        hidden = self.first_slope(hidden)
        hidden = self.second_slope(self.second(hidden))
        scores = self.score(hidden).squeeze(-1)
        pair_mask = mask[:, None, :].expand_as(scores)
        weights = torch.where(pair_mask, scores, 0.0) if self._raw else masked_softmax(scores, pair_mask)
        return torch.matmul(weights, value)


class Mlp(nn.Module):
    """Linear maps between the given widths, each followed by ReLU, or by a PReLU with one slope per channel."""

    def __init__(self, widths: Sequence[int], *, slopes: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for width_in, width_out in pairwise(widths):
            self.layers.append(nn.Linear(width_in, width_out))
            self.layers.append(Slopes(width_out) if slopes else nn.ReLU())

    def forward(self, values: Tensor, drop: Drop = keep) -> Tensor:
        """Return the last hidden layer."""
        for layer in self.layers:
            values = layer(values) if isinstance(layer, nn.Linear) else drop(layer(values))
        return values
