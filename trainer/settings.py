"""Settings of the trainer."""

from dataclasses import dataclass
from typing import Literal

from trainer.feed.batches import Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """How a lineage learns and publishes.

    All intervals but the lease's and `checkpoint_every_wall_s` are in watermark time, so the same log gives the same
    batches, marks and versions at any speed.

    Attributes:
        metrics_port: Prometheus port of the first lineage's process.
        batch_sessions: Sessions of a full batch.
        batch_s: Grid that cuts batches.
        checkpoint_s: Grid of marks: ids are admitted, items applied, a checkpoint may be written.
        checkpoint_every_wall_s: Marks that come sooner than this after a checkpoint write none; 0 writes at each.
            A version always has its checkpoint.
        publish_s: Grid of versions, a multiple of `checkpoint_s`.
        catalogue_delay_s: Items take effect at the first mark this long after their `updated_ts`.
        seen_s: How long a session is remembered, so that a repeated record is not trained twice.
        converted_s: How long a trained purchase is remembered: the longest attribution window.
        min_sightings: Sightings before an id gets a row of its own.
        vector_width: Width of the catalogue's vectors; 0 keeps the profile's.
        dense_optimizer: Optimizer of the dense weights.
        dense_lr: Its learning rate.
        rows_lr: Learning rate of row-wise Adagrad on embedding rows.
        accumulator: Initial value and floor of Adagrad's accumulators.
        accumulator_decay_per_day: What accumulators shrink by in a day of watermark time, down to the floor.
        clip_norm: Largest norm of a step's gradient.
        halt_after: Refused batches in a row that stop the process.
        rows_dtype: Number format of embedding rows in a version.
        threads: Threads of torch; part of what bit-equality depends on.
        max_waiting: Records of one partition that may wait for slower ones before it is paused.
        lease_ttl_s: Life of the lease between renewals.
        keep_checkpoints: Checkpoints kept on disk.
    """

    metrics_port: int = 9102
    batch_sessions: int = 128
    batch_s: int = 10
    checkpoint_s: int = 60
    checkpoint_every_wall_s: float = 1.0
    publish_s: int = 300
    catalogue_delay_s: int = 120
    seen_s: int = 3_600
    converted_s: int = 86_400
    min_sightings: int = 2
    vector_width: int = 0
    dense_optimizer: Literal["adamw", "adagrad"] = "adamw"
    dense_lr: float = 3e-4
    rows_lr: float = 0.05
    accumulator: float = 0.1
    accumulator_decay_per_day: float = 0.5
    clip_norm: float = 10.0
    halt_after: int = 5
    rows_dtype: Literal["float32", "float16"] = "float32"
    threads: int = 1
    max_waiting: int = 20_000
    lease_ttl_s: int = 30
    keep_checkpoints: int = 3

    def __post_init__(self) -> None:
        self.grid()
        if not 0 < self.accumulator_decay_per_day <= 1:
            raise ValueError(f"accumulator_decay_per_day = {self.accumulator_decay_per_day}: expected (0, 1]")
        for name in ("dense_lr", "rows_lr", "accumulator", "clip_norm", "threads", "max_waiting", "keep_checkpoints"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected more than 0")

    def grid(self) -> Grid:
        """Return the grids that cut batches and marks."""
        return Grid(
            batch_sessions=self.batch_sessions,
            batch_ms=self.batch_s * 1000,
            checkpoint_ms=self.checkpoint_s * 1000,
            publish_ms=self.publish_s * 1000,
        )
