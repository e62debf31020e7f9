"""Settings of the controller."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """Settings of the controller.

    Attributes:
        metrics_port: Port of the controller for probes and metrics; 0 opens none.
        metrics_host: Address that probes and metrics listen on.
    """

    metrics_port: int = 9105
    metrics_host: str = "127.0.0.1"
