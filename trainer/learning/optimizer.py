"""One step of dense weights by AdamW or Adagrad, and of touched embedding rows by row-wise Adagrad.

The model never sees a whole table: the rows a batch touches are gathered into small tables, the batch's slots are
renumbered, and only these rows have gradients and are written back.

Source: Duchi et al. 2011 (Adagrad); Loshchilov and Hutter 2019 (AdamW); docs/training.md.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.configs import LearningSettings
from trainer.features import TABLES, Batch

_EPSILON = 1e-10


def gather_unique_rows(batch: Batch) -> tuple[Batch, dict[str, NDArray[np.int64]]]:
    """Return the batch with its slots renumbered from 0, and the slots of the new numbers by table.

    Guarantees: number 0 stays slot 0, the padding.
    """
    cand, hist = batch.cand_id.copy(), batch.hist_id.copy()
    category, path = batch.query_category, batch.query_path
    touched: dict[str, NDArray[np.int64]] = {}
    for kind, table in enumerate(TABLES):
        parts = [np.zeros(1, np.int64), cand[..., kind].ravel(), hist[..., kind].ravel()]
        if table == "category":
            parts += [category, path.ravel()]
        slots, numbers = np.unique(np.concatenate(parts), return_inverse=True)
        touched[table] = slots
        split = np.split(numbers, np.cumsum([part.size for part in parts])[:-1])
        cand[..., kind] = split[1].reshape(cand.shape[:-1])
        hist[..., kind] = split[2].reshape(hist.shape[:-1])
        if table == "category":
            category, path = split[3], split[4].reshape(path.shape)
    return batch._replace(cand_id=cand, hist_id=hist, query_category=category, query_path=path), touched


class DenseOptimizer:
    """AdamW or Adagrad over named weights, with a state that can be written to a checkpoint."""

    def __init__(self, params: Mapping[str, Tensor], learning: LearningSettings) -> None:
        self._params = params
        self._lr = learning.lr
        self._is_fused = learning.fused
        self._floor = learning.accumulator
        self._optimizer: torch.optim.Optimizer
        if learning.optimizer == "adamw":
            # Norms, biases and slopes are vectors; only matrices decay.
            groups = [
                {"params": [p for p in params.values() if p.ndim > 1], "weight_decay": learning.weight_decay},
                {"params": [p for p in params.values() if p.ndim <= 1], "weight_decay": 0.0},
            ]
            self._optimizer = torch.optim.AdamW(groups, lr=learning.lr, fused=learning.fused)
        else:
            self._optimizer = torch.optim.Adagrad(
                params.values(),
                lr=learning.lr,
                initial_accumulator_value=learning.accumulator,
                fused=learning.fused,
            )

    def step(self, rate: float = 1.0) -> None:
        """Apply the gradients of the weights at a share of the learning rate, and drop them."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * rate
        self._optimizer.step()
        self.clear()

    def clear(self) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def decay(self, factor: float) -> None:
        """Shrink Adagrad's accumulators, not below their initial value; AdamW forgets by itself."""
        for state in self._optimizer.state.values():
            if "sum" in state:
                state["sum"].mul_(factor).clamp_(min=self._floor)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors named `<weight>:<quantity>`."""
        return {
            f"{name}:{key}": value
            for name, param in self._params.items()
            for key, value in self._optimizer.state[param].items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `to_tensors` returned."""
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition(":")
            param = self._params[name]
            # The fused forms count their steps on the device, the others on the host.
            stays = key == "step" and not self._is_fused
            self._optimizer.state[param][key] = value.clone() if stays else value.to(param.device, copy=True)


class RowOptimizer:
    """Row-wise Adagrad: one accumulator per row, holding the mean of its squared gradients."""

    def __init__(self, tables: Mapping[str, Tensor], lr: float, accumulator: float) -> None:
        self._tables = tables
        self._lr = lr
        self._floor = accumulator
        self.accumulators = {
            name: torch.full((table.shape[0],), accumulator, device=table.device) for name, table in tables.items()
        }

    def step(self, table: str, slots: Tensor, gradient: Tensor, rate: float = 1.0) -> None:
        """Update the rows of `slots` at a share of the learning rate; slot 0, the padding, comes first and stays.

        Shapes: slots (u,) ascending and unique, gradient (u, d).
        """
        slots, gradient = slots[1:], gradient[1:]
        accumulator = self.accumulators[table]
        summed = accumulator[slots] + gradient.square().mean(dim=1)
        accumulator[slots] = summed
        rows = self._tables[table]
        rows[slots] -= self._lr * rate * gradient / (summed.sqrt() + _EPSILON)[:, None]

    def admit(self, table: str, slots: Tensor) -> None:
        """Copy the cold row to new rows: their ids were scored with it before."""
        self._tables[table][slots] = self._tables[table][1].clone()
        self.accumulators[table][slots] = self._floor

    def decay(self, factor: float) -> None:
        """Shrink the accumulators, not below their initial value."""
        for accumulator in self.accumulators.values():
            accumulator.mul_(factor).clamp_(min=self._floor)
