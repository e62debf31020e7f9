"""The forward pass and the loss of a step, as torch runs them one by one or compiled into one graph.

A graph is compiled for one shape, so compiled steps are padded: lists to `N_MAX` candidates, histories to their limit,
and the touched rows of each table to the most that a batch can touch.

Source: docs/training.md, "Models and losses"; https://docs.pytorch.org/docs/stable/torch.compiler.html.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Final, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream.errors import ConfigError
from stream.schemas.events import MAX_PAGE_ITEMS
from trainer.configs import LearningSettings
from trainer.features import N_MAX
from trainer.features.schema import PATH_MAX
from trainer.learning.losses import total_loss
from trainer.models import MODELS, ModelConfig, Outputs, TensorBatch, call, shown_pages
from trainer.models.batch import PageTargets
from trainer.models.blocks import Dropout

Scored: TypeAlias = tuple[Outputs, Tensor, dict[str, Tensor]]


class Forward(Protocol):
    """A step's forward pass and loss."""

    def __call__(
        self,
        weights: Mapping[str, Tensor],
        batch: TensorBatch,
        label_weight: Tensor | None,
        dropout: Dropout | None,
        page: PageTargets | None = None,
        /,
    ) -> Scored:
        """Return outputs, loss, and its parts."""
        ...


# Graphs of one process: an evaluation of all models has more than torch's 8.
_GRAPHS: Final = 64


def plain(model: str, config: ModelConfig, *, device: str, low: bool) -> Forward:
    """Return the function from weights, batch, weights of labels, dropout and labels of pages to `Scored`.

    Args:
        model: Name of the model.
        config: Its configuration.
        device: Type of the device, `cpu` or `cuda`.
        low: Whether autocast runs the forward pass in bfloat16.
    """
    module = MODELS[model].build(config)

    def forward(
        weights: Mapping[str, Tensor],
        batch: TensorBatch,
        label_weight: Tensor | None,
        dropout: Dropout | None,
        page: PageTargets | None = None,
    ) -> Scored:
        with torch.autocast(device, torch.bfloat16, enabled=low):
            outputs = call(module, weights, batch, dropout, shown_pages(config, batch))
        return outputs, *total_loss(outputs, batch, config, label_weight, page)

    return forward


@cache
def compiled(model: str, config: ModelConfig, *, device: str, low: bool) -> Forward:
    """Return what `plain` returns, compiled at its first call; learners of one model in a process share it.

    Raises:
        ConfigError: If torch cannot compile here, for example without a C++ compiler.
    """
    check_compiler(device)
    torch._dynamo.config.recompile_limit = _GRAPHS  # noqa: SLF001 - torch documents this setting by this name
    function: Forward = torch.compile(plain(model, config, device=device, low=low), fullgraph=True, dynamic=False)
    return function


@cache
def check_compiler(device: str) -> None:
    """Compile a small function.

    Raises:
        ConfigError: If torch cannot do that here.
    """
    try:
        torch.compile(_half, fullgraph=True, dynamic=False)(torch.ones(64, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"learning.compile = True: torch.compile does not work here: {reason}; it needs a C++ compiler such as g++"
        ) from error


def _half(values: Tensor) -> Tensor:
    return values / 2


def step_dropout(learning: LearningSettings, number: int, device: torch.device) -> Dropout | None:
    """Return the dropout of a batch; a resumed run draws the same, from the seed and the number of the batch."""
    if not learning.dropout:
        return None
    digest = hashlib.sha256(f"dropout {learning.seed} {number}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))
    return Dropout(learning.dropout, generator)


def row_limits(
    capacities: Mapping[str, int], batch: int, history: int, pages: int = 0, *, copies: int = 1
) -> dict[str, int]:
    """Return the most rows of each table that a batch of lists can touch, the padding row included.

    A row may be gathered `copies` times.

    >>> row_limits({"shop": 10_000, "category": 50}, batch=2, history=10)
    {'shop': 81, 'category': 50}
    """
    most = 1 + batch * (N_MAX + history + pages * MAX_PAGE_ITEMS)
    of_queries = batch * (1 + PATH_MAX)
    return {
        table: min(copies * capacity, most + (of_queries if table == "category" else 0))
        for table, capacity in capacities.items()
    }


def pad_rows(touched: Mapping[str, NDArray[np.int64]], limits: Mapping[str, int]) -> dict[str, NDArray[np.int64]]:
    """Return the touched slots of each table, with slot 0 behind them up to the limit."""
    return {table: np.pad(slots, (0, limits[table] - len(slots))) for table, slots in touched.items()}
