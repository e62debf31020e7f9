"""Counts and times of a training process, for its metrics; no step of learning reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Progress:
    """Counts and times of this process, for metrics.

    Attributes:
        num_held_back: Versions that were due and not written, because nothing says yet that they are better than the
            incoming order.
        num_failed_writes: Versions and checkpoints that the file system refused.
        prequential: Means over the sessions between the two newest versions.
        version_bytes: Bytes of the newest version that this process wrote, None before.
        freshness: Seconds from an impression to the newest version that learned from it, by quantile; empty before.
        losses: Parts of the newest batch's loss.
        checkpoint_at: Monotonic seconds of the newest checkpoint of this process.
    """

    num_trained: int = 0
    num_boundaries: int = 0
    num_published: int = 0
    num_held_back: int = 0
    num_undecodable: int = 0
    num_failed_writes: int = 0
    version: int = 0
    version_bytes: int | None = None
    watermark_ts: int | None = None
    prequential: Mapping[str, float] = field(default_factory=dict)
    freshness: Mapping[float, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    checkpoint_at: float | None = None
