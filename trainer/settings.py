"""Settings of the trainer."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stream.errors import ConfigError
from trainer.breakers.bands import BandLimits
from trainer.configs import LearningSettings, ModelName, Profile

if TYPE_CHECKING:
    from trainer.feed.batches import Boundaries
    from trainer.versions.int8 import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """Settings of a trainer process and its publishing.

    What is learned depends on `[model]` and `[learning]`, and on this section by `model` and `profile`, and by
    `breaker*`, which leave ranges of the log out.

    Attributes:
        model: Model of the lineage; `[model]` holds its settings.
        profile: Profile that `[model]` and `[learning]` take their defaults from.
        metrics_host: Address that probes and metrics listen on.
        metrics_port: Port of probes and metrics of the first lineage's process; 0 turns them off.
        checkpoint_every_wall_s: Seconds of wall-clock time that must pass after a checkpoint before a boundary writes
            the next; 0 writes at each. A version always has its checkpoint.
        publish_s: Seconds of watermark time between versions, a multiple of `learning.checkpoint_s`.
        hold_lists: Clicked lists in random order on which a lineage must rank better than the incoming order, at two
            lines of the grid `publish_s` in a row, before its first version is published; those before the last line
            count half, and so on. 0 publishes at once.
        gate_lists: Newest judged lists of a gated lineage, by which the trainer compares a version with the live one.
        gate_sessions: Newest of them whose session is kept, so that each version scores them before it is published.
        breakers: Whether windows of the log with odd labels or features, and those under a training hold, are put in
            quarantine instead of being learned; nothing is published meanwhile.
        breaker_sigma: Standard deviations by which a measure must differ from the lineage's past to trip its breaker.
        breaker_ratio: Factor by which the odds of a click or an order must differ as well.
        breaker_rise: Share by which the lists or items without a feature must rise as well.
        breaker_loss: Factor by which the loss must rise as well.
        breaker_lists: Lists of a window that can become part of that past.
        breaker_windows: Windows of the past from which on breakers trip.
        halt_after: Refused batches in a row that stop the process.
        rows_dtype: Number format of embedding rows in a version.
        onnx_graph: Whether versions hold a graph, which servers with `serving.runtime = "onnx"` need. It takes some
            seconds at the first version, and less than 1 MB in each.
        onnx_int8: Whether versions also hold an int8 graph, which servers with `serving.precision = "int8"` use. It is
            left out beyond the limits below, and takes a byte per dense weight.
        int8_min_correlation: Least mean rank correlation of int8 scores with full precision, on the golden sessions.
        int8_max_churn: Largest share of golden sessions whose first item int8 scores change.
        threads: Threads of torch; bit-equal weights need the same number.
        max_waiting: Records of one partition that may wait for slower ones before it is paused.
        lease_ttl_s: Life of the lease between renewals.
        keep_checkpoints: Checkpoints kept on disk.
        deltas_per_base: Checkpoints that hold changed rows only, between two full ones; 0 writes full ones only.
        keep_versions: Newest versions of a lineage kept on disk; not fewer than `keep_checkpoints`. The live version
            always stays, and so do the full versions that others need.
        version_delta_share: Largest share of the rows of all id tables that may have changed since a full version for
            the next version to hold changed rows only; 0 writes full versions only.
    """

    model: ModelName = "armmt"
    profile: Profile = "tiny"
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9102
    checkpoint_every_wall_s: float = 1.0
    publish_s: int = 300
    hold_lists: int = 0
    gate_lists: int = 20_000
    gate_sessions: int = 1_250
    breakers: bool = True
    breaker_sigma: float = 6.0
    breaker_ratio: float = 3.0
    breaker_rise: float = 0.4
    breaker_loss: float = 2.0
    breaker_lists: int = 50
    breaker_windows: int = 8
    halt_after: int = 5
    rows_dtype: Literal["float32", "float16"] = "float32"
    onnx_graph: bool = False
    onnx_int8: bool = False
    int8_min_correlation: float = 0.98
    int8_max_churn: float = 0.05
    threads: int = 1
    max_waiting: int = 20_000
    lease_ttl_s: int = 30
    keep_checkpoints: int = 3
    deltas_per_base: int = 20
    keep_versions: int = 48
    version_delta_share: float = 0.25

    def __post_init__(self) -> None:
        positive = ("publish_s", "gate_lists", "gate_sessions", "halt_after", "threads", "max_waiting", "lease_ttl_s")
        for name in (*positive, "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        if self.gate_sessions > self.gate_lists:
            raise ValueError(f"gate_sessions = {self.gate_sessions}: expected at most gate_lists = {self.gate_lists}")
        for name in ("breaker_lists", "breaker_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        for name, least in (("breaker_sigma", 0), ("breaker_ratio", 1), ("breaker_rise", 0), ("breaker_loss", 1)):
            if not least < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: expected more than {least}")
        if self.hold_lists < 0:
            raise ValueError(f"hold_lists = {self.hold_lists}: expected 0 or more")
        if self.deltas_per_base < 0:
            raise ValueError(f"deltas_per_base = {self.deltas_per_base}: expected 0 or more")
        if self.onnx_int8 and not self.onnx_graph:
            raise ValueError("onnx_int8 = true, onnx_graph = false: int8 graphs are made from graphs")
        for name in ("int8_min_correlation", "int8_max_churn"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 to 1")
        if not 0 <= self.version_delta_share <= 1:
            raise ValueError(f"version_delta_share = {self.version_delta_share}: expected 0 to 1")
        # A restart from an older checkpoint registers the version of that checkpoint again.
        if self.keep_versions < max(self.keep_checkpoints, 2):
            raise ValueError(f"keep_versions = {self.keep_versions}: expected at least {max(self.keep_checkpoints, 2)}")

    @property
    def int8(self) -> "Limits | None":
        """Return the limits of int8 graphs; None if versions hold none."""
        from trainer.versions.int8 import Limits

        return Limits(self.int8_min_correlation, self.int8_max_churn) if self.onnx_int8 else None

    def breaker_limits(self) -> BandLimits:
        """Return the width of the bands of the breakers."""
        return BandLimits(
            sigma=self.breaker_sigma,
            ratio=self.breaker_ratio,
            rise=self.breaker_rise,
            loss=self.breaker_loss,
            lists=self.breaker_lists,
            windows=self.breaker_windows,
        )

    def boundaries(self, learning: LearningSettings) -> "Boundaries":
        """Return the grids of boundaries.

        Raises:
            ConfigError: If versions do not fall on checkpoint boundaries.
        """
        # Every command declares these settings, and batches of sessions need NumPy.
        from trainer.feed.batches import Boundaries

        if self.publish_s % learning.checkpoint_s:
            raise ConfigError(
                f"trainer.publish_s = {self.publish_s}: expected a multiple of learning.checkpoint_s = "
                f"{learning.checkpoint_s}"
            )
        return Boundaries(checkpoint_ms=learning.checkpoint_s * 1000, publish_ms=self.publish_s * 1000)
