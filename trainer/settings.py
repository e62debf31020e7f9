"""Settings of the trainer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """How a lineage learns and publishes.

    Attributes:
        metrics_port: Prometheus port of the first lineage's process.
    """

    metrics_port: int = 9102
