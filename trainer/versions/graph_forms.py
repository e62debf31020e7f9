"""Forms of a model's operations in its graph: one list without padding, in few operations.

A runtime spends about as long on starting an operation as on the arithmetic of a small one, so a graph holds no choice
between candidates and padding, no computation of shapes that are known, and attention as one operation.

Source: ONNX Runtime, "Contrib operators" (com.microsoft.MultiHeadAttention); ONNX, "PRelu" and "Expand".
"""

from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainer.models.blocks import Drop, Encoder, EncoderLayer, Slopes, keep

OPSETS: Final = {"com.microsoft": 1}
"""Domains of operations beyond ONNX, with their versions."""

_VIEWS: Final = frozenset({"unsqueeze", "squeeze", "__getitem__"})
_ANDS: Final = frozenset({"and_", "__and__", "__rand__", "bitwise_and", "logical_and"})


class OneList(TorchFunctionMode):
    """A trace of one list whose candidates are all real: what depends on their mask alone is left out."""

    def __init__(self, mask: Tensor) -> None:
        """Prepare a trace.

        Args:
            mask: [1,n] the candidates' mask.
        """
        super().__init__()
        self._mask = mask
        # By identity, which holds as long as the tensors are kept.
        self._true = {id(mask): mask}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return a simpler form of a call where there is one."""
        name = func.__name__
        if name == "where" and len(args) == 3 and self._is_true(args[0]) and _covers(args[1], args[0]):
            return args[1]
        if name in _ANDS:
            for one, other in (args, reversed(args)):
                if self._is_true(one) and _covers(other, one):
                    return other
        if name == "expand" and args[1:] == (-1, self._mask.shape[1], -1) and args[0].shape[:2] == (1, 1):
            return _OfEachCandidate.apply(args[0], self._mask)
        found = func(*args, **(kwargs or {}))
        if name in _VIEWS and self._is_true(args[0]):
            self._true[id(found)] = found
        return found

    def _is_true(self, value: object) -> bool:
        return id(value) in self._true


def simplify(module: nn.Module) -> None:
    """Give layers of a model the forms of a graph, for traces of one list without padding."""
    for layer in module.modules():
        if isinstance(layer, Encoder):
            layer.forward = MethodType(_encoded, layer)  # type: ignore[method-assign] # of a model that is only traced
        elif isinstance(layer, Slopes):
            layer.forward = MethodType(_with_slopes, layer)  # type: ignore[method-assign] # as above


def _covers(values: object, mask: Tensor) -> bool:
    """Return whether values that are chosen by the mask keep their shape."""
    if not isinstance(values, Tensor):
        return False
    shape: torch.Size = torch.broadcast_shapes(values.shape, mask.shape)  # type: ignore[no-untyped-call] # torch's own
    return shape == values.shape


def _encoded(encoder: Encoder, values: Tensor, _mask: Tensor, _drop: Drop = keep) -> Tensor:
    """Return what `Encoder.forward` returns for one list without padding and dropout, [1,n,w]."""
    # Lengths that a trace reads from a tensor become operations.
    width = encoder.width
    # A linear map of a matrix is one operation with its bias.
    rows = values.reshape(-1, width)
    for layer in encoder.layers:
        assert isinstance(layer, EncoderLayer), "an encoder has encoder layers"
        if layer.is_post_norm:
            rows = layer.norm_attention(rows + _attended(layer, rows))
            rows = layer.norm_ffn(rows + layer.feed(rows, keep))
        else:
            rows = rows + _attended(layer, layer.norm_attention(rows))
            rows = rows + layer.feed(layer.norm_ffn(rows), keep)
    rows = rows if encoder.norm is None else encoder.norm(rows)
    return rows.reshape(1, -1, width)


def _attended(layer: EncoderLayer, rows: Tensor) -> Tensor:
    width = layer.out.in_features
    query, key, value = layer.qkv(rows).reshape(1, -1, 3 * width).split([width] * 3, dim=2)
    mixed = _Attention.apply(query, key, value, layer.heads)
    return torch.as_tensor(layer.out(mixed.reshape(-1, width)))


def _with_slopes(layer: Slopes, values: Tensor) -> Tensor:
    return torch.as_tensor(_PRelu.apply(values, layer.weight))


class _Attention(torch.autograd.Function):
    """Self-attention of [1,n,w] in one operation."""

    @staticmethod
    def forward(_context: Any, query: Tensor, _key: Tensor, _value: Tensor, _heads: int) -> Tensor:
        # A trace reads the shape alone.
        return torch.zeros_like(query)

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, heads: int) -> Any:
        return g.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads).setType(query.type())


class _PRelu(torch.autograd.Function):
    """PReLU with a slope for each column of the last axis, which ONNX broadcasts."""

    @staticmethod
    def forward(_context: Any, values: Tensor, _slopes: Tensor) -> Tensor:
        return torch.zeros_like(values)

    @staticmethod
    def symbolic(g: Any, values: Any, slopes: Any) -> Any:
        return g.op("PRelu", values, slopes).setType(values.type())


class _OfEachCandidate(torch.autograd.Function):
    """One row [1,1,w] for each candidate, [1,n,w]."""

    @staticmethod
    def forward(_context: Any, row: Tensor, mask: Tensor) -> Tensor:
        return row.expand(-1, mask.shape[1], -1).clone()

    @staticmethod
    def symbolic(g: Any, row: Any, mask: Any) -> Any:
        one = g.op("Constant", value_t=torch.tensor([1]))
        shape = g.op("Concat", g.op("Shape", mask), one, axis_i=0)
        return g.op("Expand", row, shape).setType(row.type().with_sizes([1, None, row.type().sizes()[2]]))
