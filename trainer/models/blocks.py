"""Blocks that all models share: pure functions of a flat dictionary of weights, named by prefix.

Legend: B lists, n candidates, L behaviours, w width, H heads, h hidden width.

Source: MODELS.md 2.1, trap 4 of 2.7.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

Params = Mapping[str, Tensor]
Drop = Callable[[Tensor], Tensor]

_MASKED = -1e9
"""Added to masked scores: finite, so that a row with nothing real stays finite."""


class Initialiser:
    """Makes weights in a fixed order from one seed, into the flat dictionary `params`."""

    def __init__(self, seed: int) -> None:
        self.params: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def linear(self, name: str, width_in: int, width_out: int, *, bias: bool = True) -> None:
        """Add a linear map: uniform weights by Glorot, bias 0."""
        limit = math.sqrt(6 / (width_in + width_out))
        weight = torch.empty(width_out, width_in).uniform_(-limit, limit, generator=self._generator)
        self._add(f"{name}.weight", weight)
        if bias:
            self._add(f"{name}.bias", torch.zeros(width_out))

    def norm(self, name: str, width: int) -> None:
        """Add a layer norm."""
        self._add(f"{name}.weight", torch.ones(width))
        self._add(f"{name}.bias", torch.zeros(width))

    def table(self, name: str, rows: int, width: int) -> None:
        """Add an embedding table, normal with deviation .05; row 0 is padding and stays 0."""
        weight = torch.empty(rows, width).normal_(0, 0.05, generator=self._generator)
        weight[0] = 0
        self._add(name, weight)

    def slope(self, name: str, width: int) -> None:
        """Add the slopes of a PReLU."""
        self._add(name, torch.full((width,), 0.25))

    def _add(self, name: str, weight: Tensor) -> None:
        if name in self.params:
            raise ValueError(f"weight {name} is defined twice")
        self.params[name] = weight


def keep(values: Tensor) -> Tensor:
    """Return the values: the dropout of a forward pass without a generator."""
    return values


def dropper(rate: float, generator: torch.Generator | None) -> Drop:
    """Return inverted dropout drawn from `generator`, or `keep` without one."""
    if generator is None or rate == 0:
        return keep

    def drop(values: Tensor) -> Tensor:
        kept = torch.rand(values.shape, generator=generator, device=values.device) >= rate
        return values * kept / (1 - rate)

    return drop


def linear(params: Params, name: str, values: Tensor) -> Tensor:
    """Apply the linear map `name`."""
    return functional.linear(values, params[f"{name}.weight"], params.get(f"{name}.bias"))


def norm(params: Params, name: str, values: Tensor) -> Tensor:
    """Apply the layer norm `name`."""
    return functional.layer_norm(values, values.shape[-1:], params[f"{name}.weight"], params[f"{name}.bias"])


def prelu(values: Tensor, slope: Tensor) -> Tensor:
    """Apply a PReLU with one slope per channel, the last axis."""
    return torch.clamp_min(values, 0) + slope * torch.clamp_max(values, 0)


def zero_unless(mask: Tensor, values: Tensor) -> Tensor:
    """Return `values` with rows outside of the mask set to 0, whatever they held, NaN included.

    Shapes: mask (...), values (..., k).
    """
    return torch.where(mask.unsqueeze(-1), values, 0.0)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis among real entries; a row without any gives zeros."""
    weights = torch.softmax(torch.where(mask, scores, _MASKED), dim=-1)
    return torch.where(mask, weights, 0.0)


def init_encoder(init: Initialiser, name: str, width: int, layers: int, *, post_norm: bool = False) -> None:
    """Add the weights of `encoder`."""
    for layer in range(layers):
        prefix = f"{name}.{layer}"
        init.norm(f"{prefix}.norm_attention", width)
        init.linear(f"{prefix}.qkv", width, 3 * width, bias=False)
        init.linear(f"{prefix}.out", width, width)
        init.norm(f"{prefix}.norm_ffn", width)
        init.linear(f"{prefix}.ffn_in", width, 4 * width)
        init.linear(f"{prefix}.ffn_out", 4 * width, width)
    if not post_norm:
        init.norm(f"{name}.norm", width)


def encoder(
    params: Params,
    name: str,
    values: Tensor,
    mask: Tensor,
    *,
    layers: int,
    heads: int,
    post_norm: bool = False,
    drop: Drop = keep,
) -> Tensor:
    """Self-attention over the candidates and a feed-forward network, each with residual and layer norm.

    Shapes: values (B, n, w), mask (B, n); result (B, n, w).
    Guarantees: padded rows come out as 0 and no real row depends on them.
    Source: (1) of MODELS.md 2.1; pre-LN ends with one more layer norm.
    """
    lists, n, width = values.shape
    bias = torch.where(mask, 0.0, _MASKED)[:, None, None, :]
    scale = 1 / math.sqrt(width // heads)

    def attend(inputs: Tensor, prefix: str) -> Tensor:
        qkv = linear(params, f"{prefix}.qkv", inputs).view(lists, n, 3, heads, width // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(torch.matmul(query * scale, key.transpose(-1, -2)) + bias, dim=-1)
        mixed = torch.matmul(weights, value).transpose(1, 2).reshape(lists, n, width)
        return drop(linear(params, f"{prefix}.out", mixed))

    def feed(inputs: Tensor, prefix: str) -> Tensor:
        return drop(linear(params, f"{prefix}.ffn_out", torch.relu(linear(params, f"{prefix}.ffn_in", inputs))))

    for layer in range(layers):
        prefix = f"{name}.{layer}"
        norm_attention, norm_ffn = f"{prefix}.norm_attention", f"{prefix}.norm_ffn"
        if post_norm:
            values = norm(params, norm_attention, values + attend(values, prefix))
            values = norm(params, norm_ffn, values + feed(values, prefix))
        else:
            values = values + attend(norm(params, norm_attention, values), prefix)
            values = values + feed(norm(params, norm_ffn, values), prefix)
        values = zero_unless(mask, values)
    return values if post_norm else zero_unless(mask, norm(params, f"{name}.norm", values))


def init_attention(
    init: Initialiser, name: str, *, width: int, side: int, client: int, hidden: tuple[int, int]
) -> None:
    """Add the weights of `target_attention`."""
    init.linear(f"{name}.0", 4 * width + side + client, hidden[0])
    init.slope(f"{name}.0.slope", hidden[0])
    init.linear(f"{name}.1", hidden[0], hidden[1])
    init.slope(f"{name}.1.slope", hidden[1])
    init.linear(f"{name}.2", hidden[1], 1)


def target_attention(
    params: Params,
    name: str,
    *,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    side: Tensor,
    client: Tensor,
    mask: Tensor,
    raw: bool = False,
) -> Tensor:
    """Weigh behaviours by MLP([q; k; q-k; q*k; side; client]) and sum their values.

    The first layer is factored: the parts in q alone, k alone and the client run once per row, only the product per
    pair. `raw` leaves DIN's weights un-normalised.

    Shapes: query (B, n, k), key (B, L, k), value (B, L, v), side (B, L, s), client (B, u), mask (B, L); result
    (B, n, v).
    Guarantees: without any behaviour the result is 0.
    """
    width = query.shape[-1]
    weight = params[f"{name}.0.weight"]
    of_query, of_key, of_difference, of_product, of_side, of_client = torch.split(
        weight, [width, width, width, width, side.shape[-1], client.shape[-1]], dim=1
    )
    per_list = functional.linear(client, of_client, params[f"{name}.0.bias"])
    per_query = functional.linear(query, of_query + of_difference) + per_list[:, None, :]
    per_key = functional.linear(key, of_key - of_difference) + functional.linear(side, of_side)
    products = query[:, :, None, :] * key[:, None, :, :]
    hidden = functional.linear(products, of_product) + per_query[:, :, None, :] + per_key[:, None, :, :]
    hidden = prelu(hidden, params[f"{name}.0.slope"])
    hidden = prelu(linear(params, f"{name}.1", hidden), params[f"{name}.1.slope"])
    scores = linear(params, f"{name}.2", hidden).squeeze(-1)
    pair_mask = mask[:, None, :].expand_as(scores)
    weights = torch.where(pair_mask, scores, 0.0) if raw else masked_softmax(scores, pair_mask)
    return torch.matmul(weights, value)


def init_mlp(init: Initialiser, name: str, widths: tuple[int, ...], *, prelu_slopes: bool = False) -> None:
    """Add the weights of `mlp`: one linear map between each pair of widths."""
    for layer, (width_in, width_out) in enumerate(pairwise(widths)):
        init.linear(f"{name}.{layer}", width_in, width_out)
        if prelu_slopes:
            init.slope(f"{name}.{layer}.slope", width_out)


def mlp(params: Params, name: str, values: Tensor, *, layers: int, drop: Drop = keep) -> Tensor:
    """Apply `layers` linear maps, each followed by its PReLU if it has slopes, else ReLU."""
    for layer in range(layers):
        values = linear(params, f"{name}.{layer}", values)
        slope = params.get(f"{name}.{layer}.slope")
        values = drop(torch.relu(values) if slope is None else prelu(values, slope))
    return values
