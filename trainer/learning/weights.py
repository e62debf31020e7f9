"""The weights of a model under training: gradients of a batch, the step that they make, and the files of a checkpoint.

Source: docs/training.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import get_total_norm

from stream.errors import ArtifactError
from stream.schemas.times import DAY_MS
from trainer.configs import LearningSettings
from trainer.features import TABLES, Batch
from trainer.learning.forward import compiled, pad_rows, plain, row_limits, step_dropout
from trainer.learning.optimizer import DenseOptimizer, RowOptimizer
from trainer.models import MODELS, ModelConfig, Outputs, TensorBatch, to_device
from trainer.models.batch import PageLabels, PageTargets
from trainer.models.unique_rows import gather_unique_rows
from trainer.versions.atomic_folder import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Result of the forward and backward pass of one batch.

    Attributes:
        outputs: Outputs of the model, as the weights were before the step.
        losses: Parts of the loss by name.
        by_name: Gradients by the name of the weight; of tables, those of the touched rows.
        touched: Slots of the touched rows by table, the padding first.
        norm: Euclidean norm of all gradients; 0 of a batch without a label.
        is_finite: Whether loss and norm are finite numbers.
    """

    outputs: Outputs
    losses: dict[str, float]
    by_name: Mapping[str, Tensor]
    touched: Mapping[str, NDArray[np.int64]]
    norm: float
    is_finite: bool


class Weights:
    """All weights of a model, and the state of their optimizers.

    Attributes:
        params: All weights by name; tables are named `rows.*`.
        capacities: Rows of each table.
        can_compile: Whether batches of the full size take a compiled step.
        num_steps: Steps that the optimizers made.
    """

    def __init__(self, model: str, config: ModelConfig, learning: LearningSettings, device: torch.device) -> None:
        self._learning = learning
        self._device = device
        is_low = learning.precision == "bfloat16"
        self._plain = plain(model, config, device=device.type, low=is_low)
        self._compiled = compiled(model, config, device=device.type, low=is_low) if learning.compile else None
        self.can_compile = learning.compile
        self.params = {name: weight.to(device) for name, weight in MODELS[model].init(config, learning.seed).items()}
        self._dense = {n: w.requires_grad_() for n, w in self.params.items() if not n.startswith("rows.")}
        tables = {table: self.params[f"rows.{table}"] for table in TABLES}
        self._dense_optimizer = DenseOptimizer(self._dense, learning)
        self._row_optimizer = RowOptimizer(tables, learning)
        self.capacities = {table: rows.shape[0] for table, rows in tables.items()}
        self._row_limits = row_limits(
            self.capacities, learning.batch, config.history, config.num_pages, copies=1 + bool(learning.num_replayed)
        )
        self.num_steps = 0

    def gradients(
        self,
        arrays: Batch,
        page: PageLabels | None,
        label_weight: NDArray[np.float32] | None,
        replayed: NDArray[np.bool_],
        *,
        number: int,
        is_whole: bool,
    ) -> Gradients:
        """Return the gradients of a batch, which no weight has learned yet.

        Args:
            arrays: The lists.
            page: Labels of their pages.
            label_weight: [B,n] weights of the labels; None weighs all alike.
            replayed: [B] lists that were trained before, whose rows are not trained again.
            number: Number of the batch, from which its dropout is drawn.
            is_whole: Whether the batch has the full size, for which the step is compiled.
        """
        local, touched, fixed = gather_unique_rows(arrays, replayed)
        gathered = {table: np.concatenate([own, fixed[table]]) for table, own in touched.items()}
        forward = self._compiled if is_whole else None
        if forward is not None:
            gathered = pad_rows(gathered, self._row_limits)
        weighted = () if label_weight is None else (label_weight,)
        on_device = to_device([*local, *gathered.values(), *weighted, *(page or ())], self._device)
        tensors = TensorBatch(*on_device[: len(local)])
        slots = dict(zip(gathered, on_device[len(local) :], strict=False))
        labels = on_device[len(local) + len(gathered) :]
        weight_of_labels = None if label_weight is None else labels.pop(0)
        targets = None if page is None else PageTargets(*labels)
        rows = {table: self.params[f"rows.{table}"][own].requires_grad_() for table, own in slots.items()}
        weights = {**self._dense, **{f"rows.{table}": own for table, own in rows.items()}}
        dropout = step_dropout(self._learning, number, self._device)
        outputs, loss, parts = (forward or self._plain)(weights, tensors, weight_of_labels, dropout, targets)
        found = torch.autograd.grad(loss, [*weights.values()], allow_unused=True) if loss.requires_grad else ()
        trained_rows = {f"rows.{table}": len(own) for table, own in touched.items()}
        by_name = {
            name: own[: trained_rows.get(name)] for name, own in zip(weights, found, strict=False) if own is not None
        }
        norm_on_device = get_total_norm([*by_name.values()] or [torch.zeros_like(loss)])
        # One read of the device decides whether the step is taken; each further one would wait for it again.
        total, norm, *values = torch.stack([loss.detach(), norm_on_device, *parts.values()]).tolist()
        return Gradients(
            outputs=outputs,
            losses=dict(zip(parts, values, strict=True)),
            by_name=by_name,
            touched=touched,
            norm=norm,
            is_finite=math.isfinite(total) and math.isfinite(norm),
        )

    def step(self, gradients: Gradients) -> None:
        """Take the step of a batch, with a clipped norm; a batch without a label moves nothing."""
        if not gradients.norm:
            # Momentum would move the weights of a batch from which nothing is learned.
            return
        by_name = gradients.by_name
        scale = min(1.0, self._learning.clip_norm / max(gradients.norm, 1e-12))
        if scale < 1:
            by_name = {name: gradient * scale for name, gradient in by_name.items()}
        for name, weight in self._dense.items():
            weight.grad = by_name.get(name)
        # The learning rates rise during warm-up.
        rate = min(1.0, (self.num_steps + 1) / max(self._learning.warmup_steps, 1))
        self.num_steps += 1
        self._dense_optimizer.step(rate)
        with torch.no_grad():
            for table, slots in gradients.touched.items():
                gradient = by_name.get(f"rows.{table}")
                if gradient is not None:
                    self._row_optimizer.step(table, slots, gradient, rate)

    def at_boundary(self, boundary_ts: int, previous_ts: int | None, admitted: Mapping[str, NDArray[np.int64]]) -> None:
        """Set the time of the changes that follow, give new ids the cold row, and decay the accumulators."""
        self._row_optimizer.advance(boundary_ts // 1000)
        with torch.no_grad():
            for table, slots in admitted.items():
                self._row_optimizer.admit(table, slots)
            if previous_ts is not None:
                factor = self._learning.accumulator_decay_per_day ** ((boundary_ts - previous_ts) / DAY_MS)
                self._dense_optimizer.decay(factor)

    def is_changed(self, table: str, num_slots: int, since_s: int) -> NDArray[np.bool_]:
        """Return which of the first rows of a table changed since a boundary, in seconds of watermark time."""
        return self._row_optimizer.changed_s[table][:num_slots] >= since_s

    def norm(self) -> float:
        """Return the Euclidean norm of the dense weights."""
        return float(get_total_norm([weight.detach() for weight in self._dense.values()]))

    def to_files(self, slots: Mapping[str, NDArray[np.int64]]) -> dict[str, Tensors]:
        """Return the tensors of a checkpoint, of these rows of the tables."""
        return {
            "dense": _arrays(self._dense),
            "dense_optimizer": _arrays(self._dense_optimizer.to_tensors()),
            "rows": self._row_optimizer.to_arrays(slots),
        }

    def restore(self, files: Mapping[str, Tensors], num_steps: int, boundary_ts: int) -> None:
        """Continue from the files of a checkpoint of this boundary.

        Raises:
            ArtifactError: If weights are missing, surplus, or of another shape or type.
        """
        wanted = {name: (tuple(weight.shape), weight.dtype) for name, weight in self._dense.items()}
        weights = _tensors(files["dense"])
        if {name: (tuple(weight.shape), weight.dtype) for name, weight in weights.items()} != wanted:
            raise ArtifactError("checkpoint: weights are not those of this model and configuration")
        with torch.no_grad():
            for name, weight in self._dense.items():
                weight.copy_(weights[name])
            self._row_optimizer.restore(files["rows"], boundary_ts // 1000)
        self._dense_optimizer.restore(_tensors(files["dense_optimizer"]))
        self.num_steps = num_steps


def _arrays(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _tensors(arrays: Tensors) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
