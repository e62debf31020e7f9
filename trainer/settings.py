"""Settings of the trainer."""

from dataclasses import dataclass
from typing import Literal

from trainer.feed.batches import Boundaries


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """Settings of a lineage's learning and publishing.

    All intervals but the lease's and `checkpoint_every_wall_s` are in watermark time, so the same log gives the same
    batches, boundaries and versions at any speed.

    Attributes:
        metrics_host: Address that probes and metrics listen on.
        metrics_port: Port of probes and metrics of the first lineage's process; 0 turns them off.
        batch_sessions: Sessions of a full batch.
        batch_s: Seconds between the grid lines that cut batches.
        checkpoint_s: Seconds between checkpoint boundaries: ids are admitted, items are applied, and a checkpoint may
            be written.
        checkpoint_every_wall_s: Seconds of wall-clock time that must pass after a checkpoint before a boundary writes
            the next; 0 writes at each. A version always has its checkpoint.
        publish_s: Seconds between versions, a multiple of `checkpoint_s`.
        catalogue_delay_s: Items take effect at the first boundary this long after their `updated_ts`.
        seen_s: Seconds that a trained session is remembered, so that a repeated record is not trained twice.
        converted_s: Seconds that a trained purchase is remembered: the longest attribution window.
        min_sightings: Sightings before an id gets a row of its own.
        vector_width: Width of the catalogue's vectors; 0 keeps the profile's.
        dense_optimizer: Optimizer of the dense weights.
        dense_lr: Its learning rate.
        rows_lr: Learning rate of row-wise Adagrad on embedding rows.
        accumulator: Initial value and floor of Adagrad's accumulators.
        accumulator_decay_per_day: Factor that shrinks accumulators in a day of watermark time, down to the floor.
        clip_norm: Largest norm of a step's gradient.
        halt_after: Refused batches in a row that stop the process.
        rows_dtype: Number format of embedding rows in a version.
        threads: Threads of torch; bit-equal weights need the same number.
        max_waiting: Records of one partition that may wait for slower ones before it is paused.
        lease_ttl_s: Life of the lease between renewals.
        keep_checkpoints: Checkpoints kept on disk.
        keep_versions: Newest versions of a lineage kept on disk; not fewer than `keep_checkpoints`. The live version
            always stays.
    """

    metrics_host: str = "127.0.0.1"
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
    keep_versions: int = 48

    def __post_init__(self) -> None:
        self.boundaries()
        if not 0 < self.accumulator_decay_per_day <= 1:
            raise ValueError(f"accumulator_decay_per_day = {self.accumulator_decay_per_day}: expected (0, 1]")
        for name in ("dense_lr", "rows_lr", "accumulator", "clip_norm", "threads", "max_waiting", "keep_checkpoints"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected more than 0")

        # A restart from an older checkpoint registers the version of that checkpoint again.
        if self.keep_versions < max(self.keep_checkpoints, 2):
            raise ValueError(f"keep_versions = {self.keep_versions}: expected at least {max(self.keep_checkpoints, 2)}")

    def boundaries(self) -> Boundaries:
        """Return the grids that cut batches and boundaries."""
        return Boundaries(
            batch_sessions=self.batch_sessions,
            batch_ms=self.batch_s * 1000,
            checkpoint_ms=self.checkpoint_s * 1000,
            publish_ms=self.publish_s * 1000,
        )
