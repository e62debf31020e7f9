"""Settings of experiments and of the sink that turns sessions into facts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AbtestSettings:
    """Settings of the sink.

    Attributes:
        metrics_port: Port of the sink for probes and metrics; 0 opens none.
        metrics_host: Address that probes and metrics listen on.
    """

    metrics_port: int = 9103
    metrics_host: str = "127.0.0.1"
