"""Settings of experiments and of the sink that turns sessions into facts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AbtestSettings:
    """How facts are gathered.

    Attributes:
        metrics_port: Prometheus port of the sink.
    """

    metrics_port: int = 9103
