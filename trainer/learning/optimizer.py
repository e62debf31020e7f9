"""One step of dense weights by AdamW or Adagrad, and of touched embedding rows by row-wise Adagrad.

Source: Duchi et al. 2011 (Adagrad); Loshchilov and Hutter 2019 (AdamW); docs/training.md.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream.errors import ArtifactError
from stream.schemas.times import DAY_S
from trainer.configs import LearningSettings

_EPSILON = 1e-10


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
    """Row-wise Adagrad: one accumulator per row, holding the mean of its squared gradients.

    An accumulator decays when its row is used next, so a boundary costs nothing for rows that are not used.

    Attributes:
        accumulators: Accumulator of each row as of `changed_s`.
        changed_s: Boundary, in seconds of watermark time, after which each row was changed last.
    """

    def __init__(self, tables: Mapping[str, Tensor], learning: LearningSettings) -> None:
        self._tables = tables
        self._lr = learning.rows_lr
        self._floor = learning.accumulator
        self._decay_per_day = learning.accumulator_decay_per_day
        self._now_s = 0
        self.accumulators = {
            name: torch.full((table.shape[0],), self._floor, device=table.device) for name, table in tables.items()
        }
        self.changed_s = {name: np.zeros(table.shape[0], np.uint32) for name, table in tables.items()}

    def advance(self, boundary_s: int) -> None:
        """Set the time of the changes that follow."""
        self._now_s = boundary_s

    def step(self, table: str, slots: NDArray[np.int64], gradient: Tensor, rate: float = 1.0) -> None:
        """Update the rows of `slots` at a share of the learning rate; slot 0, the padding, comes first and stays.

        Shapes: slots (u,) ascending and unique, gradient (u, d).
        """
        slots, gradient = slots[1:], gradient[1:]
        idle_days = (self._now_s - self.changed_s[table][slots].astype(np.int64)) / DAY_S
        factor = torch.from_numpy((self._decay_per_day**idle_days).astype(np.float32)).to(gradient.device)
        places = torch.from_numpy(slots).to(gradient.device)
        accumulator = self.accumulators[table]
        decayed = (accumulator[places] * factor).clamp(min=self._floor)
        summed = decayed + gradient.square().mean(dim=1)
        accumulator[places] = summed
        rows = self._tables[table]
        rows[places] -= self._lr * rate * gradient / (summed.sqrt() + _EPSILON)[:, None]
        self.changed_s[table][slots] = self._now_s

    def admit(self, table: str, slots: NDArray[np.int64]) -> None:
        """Copy the cold row to new rows: their ids were scored with it before."""
        places = torch.from_numpy(slots).to(self._tables[table].device)
        self._tables[table][places] = self._tables[table][1].clone()
        self.accumulators[table][places] = self._floor
        self.changed_s[table][slots] = self._now_s

    def to_arrays(self, slots: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.generic]]:
        """Return these rows and their state as arrays named `<table>.<column>`."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for table, own in slots.items():
            places = torch.from_numpy(own).to(self._tables[table].device)
            arrays[f"{table}.rows"] = self._tables[table].detach()[places].cpu().numpy()
            arrays[f"{table}.accumulators"] = self.accumulators[table][places].cpu().numpy()
            arrays[f"{table}.changed_s"] = self.changed_s[table][own]
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], boundary_s: int) -> None:
        """Continue at a boundary from the arrays of all rows in use; tables may have become larger.

        Raises:
            ArtifactError: If an array is missing, or has another shape or type.
        """
        self._now_s = boundary_s
        for table, rows in self._tables.items():
            try:
                own, accumulators, changed_s = (
                    arrays[f"{table}.{column}"] for column in ("rows", "accumulators", "changed_s")
                )
            except KeyError as error:
                raise ArtifactError(f"checkpoint: {error} is missing") from error
            used, width = len(own), rows.shape[1]
            fits = own.dtype == np.float32 and own.shape[1:] == (width,) and used <= len(rows)
            if not fits or accumulators.shape != (used,) or changed_s.shape != (used,):
                raise ArtifactError(
                    f"checkpoint: rows of {table}: {own.dtype} {own.shape} do not fit a table of {len(rows)} x {width}"
                )
            rows[:used] = torch.from_numpy(own)
            self.accumulators[table][:used] = torch.from_numpy(accumulators)
            self.changed_s[table][:used] = changed_s
